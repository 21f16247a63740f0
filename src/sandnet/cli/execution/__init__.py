"""Run programs in sandboxes."""
