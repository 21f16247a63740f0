"""Reads the kernel's counters of its neighbour tables.

Each table, one for a version of IP, holds the neighbours of all network namespaces, up to ``gc_thresh3`` of them.
``/proc/net/stat`` has the counters in the first namespace only, and netlink has them in all.

Layouts and numbers: ``linux/neighbour.h``, ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

from sandnet.kernel.netlink.socket import NLM_F_DUMP, Message, attributes, map_errors, replies
from sandnet.kernel.netlink.uapi.message_numbers import RTM_GETNEIGHTBL, RTM_NEWNEIGHTBL
from sandnet.kernel.netlink.uapi.neighbour_numbers import NDTA_STATS

_TABLE: Final = struct.Struct("=BxH")
_TABLE_FULLS: Final = 10
"""Place among the numbers of ``struct ndt_stats``, of 8 bytes each."""
_BUFFER: Final = 1 << 16
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def overflows() -> Mapping[int, int]:
    """Return how often a table was full, by version of IP; none where the kernel does not report it.

    Raises:
        Error: ``UNAVAILABLE`` the kernel refuses.
    """
    with map_errors("read the counters of neighbours"):
        found = {version: _table_fulls(family) for version, family in _FAMILIES.items()}
    return {version: count for version, count in found.items() if count is not None}


def _table_fulls(family: int) -> int | None:
    """Read the beginning of a list: the table comes first, and then its settings for each link, maybe thousands."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(Message(RTM_GETNEIGHTBL, NLM_F_DUMP, _TABLE.pack(family, 0)).packed(1))
        port = -1
        while port != 0:  # any process may write to the socket
            data, (port, _groups) = netlink.recvfrom(_BUFFER)
        for reply in replies(data):
            numbers = attributes(reply.body, _TABLE.size).get(NDTA_STATS, b"")
            if reply.kind == RTM_NEWNEIGHTBL and len(numbers) >= 8 * (_TABLE_FULLS + 1):
                return int(struct.unpack_from("=Q", numbers, 8 * _TABLE_FULLS)[0])
    return None
