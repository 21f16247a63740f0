"""WireGuard links in the kernel of this machine."""
