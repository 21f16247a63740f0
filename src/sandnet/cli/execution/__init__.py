"""Execution of programs in sandboxes."""
