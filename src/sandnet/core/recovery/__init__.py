"""Make the kernel as recorded at a start, and the records as the kernel has them after a loss."""
