"""DNS: a resolver process answers the names of networks, endpoints and services inside every sandbox."""
