"""The daemon towards its clients and its host: one at a time, directories, sockets, TLS, HTTP."""
