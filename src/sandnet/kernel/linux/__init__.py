"""The kernel room's protocols on a real Linux kernel."""
