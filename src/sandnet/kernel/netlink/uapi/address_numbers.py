"""Addresses of links and their attributes (``linux/if_addr.h``)."""

from __future__ import annotations

import struct
from typing import Final

IFADDRMSG: Final = struct.Struct("=BBBBI")
"""``struct ifaddrmsg``: family, prefix length, flags, scope, index of the link."""

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_CACHEINFO: Final = 6
IFA_F_SECONDARY: Final = 0x1
IFA_F_NODAD: Final = 0x2
