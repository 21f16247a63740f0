"""Create, join, leave and delete networks, endpoints, services and sandboxes."""
