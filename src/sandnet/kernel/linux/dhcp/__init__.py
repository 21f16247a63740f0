"""Clients of DHCP: processes of the program udhcpc."""
