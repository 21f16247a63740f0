"""Clients of DHCP in sandboxes."""
