"""What networks over several hosts need from the kernel: the protocol and its records."""
