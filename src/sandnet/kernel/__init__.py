"""The only room that touches netlink, nftables, namespaces, sysctl and sockets of the host."""
