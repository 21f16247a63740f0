"""The overlay driver: networks that reach other hosts by VXLAN."""
