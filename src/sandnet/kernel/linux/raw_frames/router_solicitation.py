"""Asks the routers on a link to advertise themselves at once (RFC 4861, 4.1)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_SOLICITATION: Final = 133
_ALL_ROUTERS: Final = "ff02::2"
_HOP_LIMIT: Final = 255
"""Routers ignore a solicitation with any other hop limit (RFC 4861, 6.1.1)."""


def solicit_routers(interfaces: Iterable[str]) -> None:
    """Send one router solicitation on each link. One that is down, or has no link-local address, is skipped."""
    for interface in interfaces:
        with suppress(OSError):
            _solicit(interface)


def _solicit(interface: str) -> None:
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        raw.sendto(struct.pack("!BBHI", _SOLICITATION, 0, 0, 0), (_ALL_ROUTERS, 0, 0, index))
