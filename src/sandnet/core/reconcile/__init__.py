"""Compare the records with the kernel, and repair what differs."""
