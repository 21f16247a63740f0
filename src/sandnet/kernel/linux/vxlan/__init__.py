"""VXLAN links of this machine, and the entries that lead to other hosts."""
