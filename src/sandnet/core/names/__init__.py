"""What the resolver and the hosts files of sandboxes say of the records."""
