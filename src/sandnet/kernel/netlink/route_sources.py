"""Finds where the host's routes prefer a source address that masquerading would not choose.

The kernel sends the host's own packets from the preferred source of their route (``ip route ... src``). Masquerading
ignores it: it takes the address of the link that is in the next hop's subnet, or the first one (``inet_select_addr`` in
``net/ipv4/devinet.c``). These functions find the destinations for which the two differ.

Layouts and numbers: ``linux/rtnetlink.h``, ``linux/if_addr.h``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from sandnet.kernel.netlink.routes import ROUTE_PROTOCOL
from sandnet.kernel.netlink.socket import Netlink, attributes, to_number
from sandnet.kernel.netlink.uapi.address_numbers import IFA_ADDRESS, IFA_F_SECONDARY, IFA_LOCAL, IFADDRMSG
from sandnet.kernel.netlink.uapi.message_numbers import RTM_GETADDR, RTM_GETROUTE
from sandnet.kernel.netlink.uapi.route_numbers import (
    RT_SCOPE_UNIVERSE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_F_CLONED,
    RTMSG,
    RTN_UNICAST,
    RTNEXTHOP,
)
from sandnet.kernel.types import RT_TABLE_MAIN, RouteSource

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_HALF: Final = 1
"""Length of the prefixes of which VPN clients make a default route, so that the old one can stay."""
_Span = tuple[int, int]
"""The first and the last address, as numbers."""


class Path(NamedTuple):
    """One next hop of a route."""

    family: int
    span: _Span
    """Its destinations."""
    rank: tuple[bool, int, int]
    """Of two paths to the same destinations over one link, the lower one is used: main table, table, metric."""
    link: int
    gateway: bytes
    """Empty: the destination is on the link."""
    source: bytes
    """Empty: the route prefers none."""
    protocol: int


class OwnAddress(NamedTuple):
    """An address of a link that masquerading may choose."""

    family: int
    link: int
    local: bytes
    span: _Span
    """The subnet."""


def paths_of(body: bytes) -> Iterator[Path]:
    """Yield the next hops of one route's message; none where it forwards nothing, or is a route of ours."""
    family, length, _src, _tos, table, protocol, _scope, kind, flags = RTMSG.unpack_from(body)
    if family not in _FAMILIES or kind != RTN_UNICAST or flags & RTM_F_CLONED or protocol == ROUTE_PROTOCOL:
        return
    found = attributes(body, RTMSG.size)
    table = to_number(found.get(RTA_TABLE)) or table
    size = 4 if family == socket.AF_INET else 16
    span = _span(found.get(RTA_DST, bytes(size)), length)
    rank = (table != RT_TABLE_MAIN, table, to_number(found.get(RTA_PRIORITY)))
    source = found.get(RTA_PREFSRC, b"")
    for link, gateway in _next_hops(found):
        yield Path(family, span, rank, link, gateway, source, protocol)


def _next_hops(found: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    several = found.get(RTA_MULTIPATH)
    if several is None:
        yield to_number(found.get(RTA_OIF)), found.get(RTA_GATEWAY, b"")
        return
    offset = 0
    while offset + RTNEXTHOP.size <= len(several):
        length, _flags, _hops, link = RTNEXTHOP.unpack_from(several, offset)
        if length < RTNEXTHOP.size:
            return
        inner = attributes(several[: offset + length], offset + RTNEXTHOP.size)
        yield link, inner.get(RTA_GATEWAY, b"")
        offset += (length + 3) & ~3


def dump_paths(netlink: Netlink) -> Iterator[Path]:
    """Yield all next hops of all routing tables."""
    for family in _FAMILIES:
        for body in netlink.dump(RTM_GETROUTE, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            yield from paths_of(body)


def dump_widest(netlink: Netlink) -> Iterator[Path]:
    """Yield the next hops of the routes of all tables that lead to a half of all addresses or more."""
    for family in _FAMILIES:
        for body in netlink.dump(RTM_GETROUTE, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            if RTMSG.unpack_from(body)[1] <= _HALF:
                yield from paths_of(body)


def dump_own_addresses(netlink: Netlink) -> Iterator[OwnAddress]:
    """Yield the addresses that masquerading may choose, in the kernel's order."""
    for body in netlink.dump(RTM_GETADDR, IFADDRMSG.pack(0, 0, 0, 0, 0)):
        family, length, flags, scope, link = IFADDRMSG.unpack_from(body)
        found = attributes(body, IFADDRMSG.size)
        peer = found.get(IFA_ADDRESS, b"")
        secondary = family == socket.AF_INET and flags & IFA_F_SECONDARY  # the bit means "temporary" in IPv6
        if family in _FAMILIES and peer and scope == RT_SCOPE_UNIVERSE and not secondary:
            yield OwnAddress(family, link, found.get(IFA_LOCAL) or peer, _span(peer, length))


def differing_sources(
    paths: Iterable[Path], own: Iterable[OwnAddress], names: Mapping[int, str]
) -> Sequence[RouteSource]:
    """Return the destinations whose packets would have another source than their route prefers, by link.

    Args:
        paths: the next hops of the host's routes.
        own: the addresses of its links, in the kernel's order.
        names: of links by index; links without a name are skipped.
    """
    addresses: dict[tuple[int, int], list[OwnAddress]] = {}
    for each in own:
        addresses.setdefault((each.family, each.link), []).append(each)
    best: dict[tuple[int, int], dict[_Span, Path]] = {}
    for path in paths:
        known = best.setdefault((path.family, path.link), {})
        if path.span not in known or path.rank < known[path.span].rank:
            known[path.span] = path
    found: list[RouteSource] = []
    for (family, link), of_link in best.items():
        if link in names and any(path.source for path in of_link.values()):
            there = addresses.get((family, link), [])
            preferred = {span: _source(path, there) for span, path in of_link.items()}
            found += _entries(family, names[link], _flattened(preferred))
    return sorted(found, key=lambda each: (each.link, each.first.version, int(each.first)))


def _source(path: Path, own: Sequence[OwnAddress]) -> bytes:
    """Return the source that the path prefers; empty where there is none, or masquerading chooses it anyway."""
    if not path.source or ip_address(path.source).is_loopback:
        return b""
    return b"" if _masqueraded(path, own) == path.source else path.source


def _masqueraded(path: Path, own: Sequence[OwnAddress]) -> bytes:
    """Return the address that masquerading chooses; empty: it is not the same one for all destinations."""
    if path.family == socket.AF_INET6:  # by the rules of RFC 6724, which depend on the destination
        return own[0].local if len(own) == 1 else b""
    next_hop = _span(path.gateway, 32) if len(path.gateway) == 4 else path.span
    for each in own:
        if each.span[0] <= next_hop[0] and next_hop[1] <= each.span[1]:
            return each.local
        if each.span[0] <= next_hop[1] and next_hop[0] <= each.span[1] and len(own) > 1:
            return b""
    return own[0].local if own else b""


def _flattened(preferred: Mapping[_Span, bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield spans that do not overlap, each with the source of its longest prefix.

    Adjacent spans with the same source become one, over a gap too: no packet leaves by the link to a destination that
    no route over the link has.
    """
    last: tuple[int, int, bytes] | None = None
    for first, end, source in _cut(sorted(preferred.items(), key=lambda item: (item[0][0], -item[0][1]))):
        if last and last[2] == source:
            last = last[0], end, source
            continue
        if last and last[2]:
            yield last
        last = first, end, source
    if last and last[2]:
        yield last


def _cut(nested: Iterable[tuple[_Span, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    """Cut prefixes, outer ones before those within them, into spans that do not overlap."""
    around: list[tuple[int, bytes]] = []
    at = 0
    for (first, end), source in nested:
        while around and around[-1][0] < first:
            outer, of_outer = around.pop()
            if at <= outer:
                yield at, outer, of_outer
                at = outer + 1
        if around and at < first:
            yield at, first - 1, around[-1][1]
        at = first
        around.append((end, source))
    while around:
        outer, of_outer = around.pop()
        if at <= outer:
            yield at, outer, of_outer
            at = outer + 1


def _entries(family: int, link: str, spans: Iterable[tuple[int, int, bytes]]) -> Iterator[RouteSource]:
    size = 4 if family == socket.AF_INET else 16
    for first, end, source in spans:
        ends = [ip_address(each.to_bytes(size)) for each in (first, end)]
        yield RouteSource(link, ends[0], ends[1], ip_address(source))


def _span(packed: bytes, length: int) -> _Span:
    mask = (1 << (8 * len(packed) - length)) - 1
    first = int.from_bytes(packed) & ~mask
    return first, first | mask
