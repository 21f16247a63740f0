"""Restore the kernel from the records at start-up, and rebuild the records from the kernel after a loss."""
