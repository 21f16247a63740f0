"""Load balancing of services: nftables rules and elements, and the state that the kernel has."""
