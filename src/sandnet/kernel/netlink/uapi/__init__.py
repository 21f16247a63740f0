"""Numbers and layouts of the kernel's headers (``include/uapi/linux``): each stands here once, under its own name."""
