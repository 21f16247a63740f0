"""The commands about the hosts that share networks."""
