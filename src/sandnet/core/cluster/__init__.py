"""Records that several hosts share: claims, the membership of each host, and the view of what the others wrote."""
