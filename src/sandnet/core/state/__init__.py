"""Records of networks, endpoints and sandboxes: in memory, in the store, and as events."""
