"""Networks of container engines, by the protocol of network and IPAM plugins."""
