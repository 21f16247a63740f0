"""The packet filter of the host: NAT, published ports, isolation, anti-spoofing, load balancing."""
