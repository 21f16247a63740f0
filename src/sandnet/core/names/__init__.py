"""Publish the names in the records: by the resolver, and by the hosts and resolv.conf files of sandboxes."""
