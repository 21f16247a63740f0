"""Neighbours and forwarding entries (``linux/neighbour.h``)."""

from __future__ import annotations

import struct
from typing import Final

NDMSG: Final = struct.Struct("=BxxxiHBB")
"""``struct ndmsg``: family, index of the link, state, flags, type."""

NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NDA_PORT: Final = 6
NDA_VNI: Final = 7
NDA_IFINDEX: Final = 8

NTF_USE: Final = 0x01
NTF_SELF: Final = 0x02
NTF_MASTER: Final = 0x04
NTF_EXT_LEARNED: Final = 0x10
NTF_STICKY: Final = 0x40

NUD_NONE: Final = 0x00
NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80

NDTA_STATS: Final = 7
