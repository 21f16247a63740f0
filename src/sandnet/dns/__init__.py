"""Names of networks, endpoints and services, answered inside every sandbox by a process of its own."""
