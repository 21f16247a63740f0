"""The REST interface of libnetwork (2015)."""
