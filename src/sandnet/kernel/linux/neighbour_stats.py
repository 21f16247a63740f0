"""Reads the kernel's counters of its neighbour tables (``neigh_stat_seq_show`` in net/core/neighbour.c).

Each table, one for a version of IP, holds the neighbours of all network namespaces, up to ``gc_thresh3`` of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FOLDER: Final = "/proc/net/stat"
_FILES: Final = {4: "arp_cache", 6: "ndisc_cache"}
_COLUMN: Final = "table_fulls"


def overflows(folder: str = FOLDER) -> Mapping[int, int]:
    """Return how often a table was full, by version of IP; none where the kernel does not report it."""
    found = {version: _sum(f"{folder}/{name}") for version, name in _FILES.items()}
    return {version: count for version, count in found.items() if count is not None}


def _sum(path: str) -> int | None:
    """Return the sum over all processors: a line of headings, then a line of hexadecimal numbers for each processor."""
    try:
        with open(path, encoding="ascii") as file:
            headings, *rows = [line.split() for line in file]
        column = headings.index(_COLUMN)
        return sum(int(row[column], 16) for row in rows)
    except (OSError, ValueError, IndexError):
        return None
