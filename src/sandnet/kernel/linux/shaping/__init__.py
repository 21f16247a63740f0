"""Limits of traffic: token buckets on the ports of sandboxes."""
