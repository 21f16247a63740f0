"""The kernel's part of encrypted networks: a WireGuard link to the other hosts."""
