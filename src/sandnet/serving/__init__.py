"""The daemon's interface to its clients and its host: single instance, directories, sockets, TLS, HTTP."""
