"""The only room that uses netlink, nftables, namespaces, sysctl and sockets of the host."""
