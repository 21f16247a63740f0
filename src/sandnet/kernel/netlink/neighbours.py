"""The two requests about neighbours that we make, as functions over a :class:`Netlink` socket.

Layouts and numbers: ``linux/neighbour.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from sandnet.kernel.netlink.rtnetlink import RTM_NEWNEIGH
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_REPLACE, Netlink, Request, attribute
from sandnet.model.address import Address

_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NUD_NONE: Final = 0
_NUD_STALE: Final = 4
_NTF_USE: Final = 1


def correct_neighbour(netlink: Netlink, index: int, address: Address, mac: bytes) -> bool:
    """Set the MAC of a link's neighbour entry for this address; ``False``: there is no entry."""
    kind, body, flags, accept = correction(index, address, mac)
    return netlink.call(kind, body, flags, accept)


def announce_own(netlink: Netlink, index: int, address: Address) -> None:
    """Have the kernel announce the link's own IPv4 address, by requesting it.

    Sender and target of the request are the same then (RFC 5227, 3). The kernel sends it three times, a second apart,
    as no one answers (``mcast_solicit``, ``retrans_time_ms``).
    """
    kind, body, flags, _ = announcement(index, address)
    netlink.call(kind, body, flags)


def correction(index: int, address: Address, mac: bytes) -> Request:
    """Return the request of :func:`correct_neighbour`."""
    body = _NEIGHBOUR.pack(_family(address), index, _NUD_STALE, 0, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac)
    return Request(RTM_NEWNEIGH, body, NLM_F_REPLACE, (errno.ENOENT,))


def announcement(index: int, address: Address) -> Request:
    """Return the request of :func:`announce_own`."""
    body = _NEIGHBOUR.pack(_family(address), index, _NUD_NONE, _NTF_USE, 0)
    return Request(RTM_NEWNEIGH, body + attribute(_NDA_DST, address.packed), NLM_F_CREATE)


def _family(address: Address) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET
