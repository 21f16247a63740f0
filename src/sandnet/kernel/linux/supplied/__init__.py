"""Links that other programs made, in the kernel."""
