"""Network drivers, one per kind of network. No driver imports another."""
