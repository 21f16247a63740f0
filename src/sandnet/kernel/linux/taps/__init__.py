"""Taps: links of the host whose other end is a descriptor, which an emulator opens."""
