"""The lifecycle of networks, endpoints, services and sandboxes: create, join, leave and delete."""
