"""The bridge driver: a Linux bridge, veth pairs, NAT and published ports."""
