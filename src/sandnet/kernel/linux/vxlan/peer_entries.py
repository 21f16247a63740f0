"""Forwarding and neighbour entries for peers, as requests and dumps of a :class:`Netlink` socket.

Forwarding entries of both kinds are static (``NUD_NOARP``), and neighbour entries permanent: no packet changes them,
and they do not age. That of the bridge is sticky, so that no port of the bridge can take the MAC over.

Layouts and numbers: ``linux/neighbour.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_REPLACE, Netlink, Request, attribute, attributes, u32
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH
from sandnet.kernel.netlink.uapi.neighbour_numbers import (
    NDA_DST,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDA_PORT,
    NDA_VNI,
    NDMSG,
    NTF_EXT_LEARNED,
    NTF_MASTER,
    NTF_SELF,
    NTF_STICKY,
    NUD_NOARP,
    NUD_PERMANENT,
    NUD_REACHABLE,
)
from sandnet.kernel.vxlan.base import PeerEntries

_ELSEWHERE: Final = (NDA_PORT, NDA_VNI, NDA_IFINDEX)
"""Where these attributes are present, frames are sent otherwise than ours."""
_STATIC: Final = NUD_NOARP | NUD_REACHABLE
"""The VXLAN link requires one of the two bits, the bridge the other one."""
_AT_ONCE: Final = 500
"""Requests in one datagram: about 30 KB, less than a socket may usually send."""
_ABSENT: Final = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
"""Refusals to delete what is absent; ``EINVAL``: the link is no port of a bridge any more, or has no IPv6."""
_MAC_HEADER: Final = struct.pack("=HH", 4 + 6, NDA_LLADDR)


class FoundEntry(NamedTuple):
    """One entry of a message, as a set of entries of its kind."""

    link: int
    entries: PeerEntries
    static: bool
    """Whether it is in the state that ours are in."""


def dump_entries(netlink: Netlink, port: int, bridge: int) -> PeerEntries:
    """Return the static entries of the VXLAN port and the bridge with these indexes."""
    forwarding: set[tuple[bytes, bytes]] = set()
    ports: set[bytes] = set()
    body = NDMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0) + u32(NDA_IFINDEX, port)
    for entry in filter(None, map(entry_of, netlink.dump(RTM_GETNEIGH, body))):
        if entry.link == port and entry.static:
            forwarding |= entry.entries.forwarding
            ports |= entry.entries.ports
    neighbours: set[tuple[bytes, bytes]] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        body = NDMSG.pack(family, 0, 0, 0, 0) + u32(NDA_IFINDEX, bridge)
        for found in netlink.dump(RTM_GETNEIGH, body):
            _family, link, state, _flags, _type = NDMSG.unpack_from(found)
            if link == bridge and state & NUD_PERMANENT:
                parts = attributes(found, NDMSG.size)
                neighbours.add((parts.get(NDA_DST, b""), parts.get(NDA_LLADDR, b"")))
    return PeerEntries(frozenset(forwarding), frozenset(ports), frozenset(neighbours))


def entry_of(body: bytes) -> FoundEntry | None:
    """Decode an entry's message; ``None``: it is none of the kinds that we make."""
    family, link, state, flags, _type = NDMSG.unpack_from(body)
    parts = attributes(body, NDMSG.size)
    if family != socket.AF_BRIDGE:
        neighbour = frozenset({(parts.get(NDA_DST, b""), parts.get(NDA_LLADDR, b""))})
        return FoundEntry(link, PeerEntries(neighbours=neighbour), bool(state & NUD_PERMANENT))
    mac = parts.get(NDA_LLADDR, b"")
    if flags & NTF_SELF and NDA_DST in parts:
        forwarding = frozenset({(mac, _destination(parts))})
        return FoundEntry(link, PeerEntries(forwarding=forwarding), bool(state & NUD_NOARP))
    if flags & NTF_SELF or state & NUD_PERMANENT:  # of a multicast group; the address of a port itself
        return None
    return FoundEntry(link, PeerEntries(ports=frozenset({mac})), bool(state & NUD_NOARP))


def change_entries(netlink: Netlink, port: int, bridge: int, removed: PeerEntries, added: PeerEntries) -> None:
    """Remove entries and then add others, in batches. An index of 0 stands for an absent link."""
    requests = [*_removals(port, bridge, removed), *_additions(port, bridge, added)]
    for first in range(0, len(requests), _AT_ONCE):
        netlink.batch(requests[first : first + _AT_ONCE])


def _removals(port: int, bridge: int, entries: PeerEntries) -> Iterator[Request]:
    if port:
        for mac, host in entries.forwarding:
            body = _forwarding(port, NTF_SELF, mac) + _host(host)
            yield Request(RTM_DELNEIGH, body, accept=_ABSENT)
        for mac in entries.ports:
            yield Request(RTM_DELNEIGH, _forwarding(port, NTF_MASTER, mac), accept=_ABSENT)
    if bridge:
        for address, _ in entries.neighbours:
            yield Request(RTM_DELNEIGH, _neighbour(bridge, address), accept=_ABSENT)


def _additions(port: int, bridge: int, entries: PeerEntries) -> Iterator[Request]:
    flags = NLM_F_CREATE | NLM_F_REPLACE
    for mac, host in entries.forwarding:
        yield Request(RTM_NEWNEIGH, _forwarding(port, NTF_SELF, mac) + _host(host), flags)
    for mac in entries.ports:
        yield Request(RTM_NEWNEIGH, _forwarding(port, NTF_MASTER | NTF_STICKY, mac), flags)
    for address, mac in entries.neighbours:
        yield Request(RTM_NEWNEIGH, _neighbour(bridge, address) + _MAC_HEADER + mac + b"\0\0", flags)


def _forwarding(port: int, flags: int, mac: bytes) -> bytes:
    return NDMSG.pack(socket.AF_BRIDGE, port, _STATIC, flags, 0) + _MAC_HEADER + mac + b"\0\0"


def _host(address: bytes) -> bytes:
    """Encode where frames are sent; nothing for an entry that is not ours: all destinations of its MAC are deleted."""
    return attribute(NDA_DST, address) if len(address) in (4, 16) else b""


def _neighbour(bridge: int, address: bytes) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return NDMSG.pack(family, bridge, NUD_PERMANENT, NTF_EXT_LEARNED, 0) + attribute(NDA_DST, address)


def _destination(parts: Mapping[int, bytes]) -> bytes:
    """Return the host's address, and after it what makes the entry another than ours."""
    return b"".join(parts[kind] for kind in (NDA_DST, *_ELSEWHERE) if kind in parts)
