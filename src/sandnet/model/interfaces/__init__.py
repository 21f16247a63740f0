"""Records of what the interfaces of sandboxes have besides their addresses."""
