"""The dialect of Docker's plugin protocol: remote network driver and remote IPAM driver."""
