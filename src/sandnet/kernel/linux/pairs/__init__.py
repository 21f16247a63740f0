"""The two ends of a veth pair: one in the host's namespace, on a bridge, and one in a sandbox's."""
