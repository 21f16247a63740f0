"""Kinds of network. No driver imports another."""
