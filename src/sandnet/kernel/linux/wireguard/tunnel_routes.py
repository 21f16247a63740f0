"""Routes of a range of addresses that is reached by one link or not at all.

The route that refuses the range is always there. That to the link has a lower metric, and goes with the link: then
packets are dropped, where otherwise they would take a wider route.

Layouts and numbers: ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Final, NamedTuple

from sandnet.kernel.netlink.routes import ROUTE_PROTOCOL
from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attributes,
    to_number,
    u32,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE
from sandnet.kernel.netlink.uapi.route_numbers import (
    RT_SCOPE_UNIVERSE,
    RTA_DST,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTMSG,
    RTN_BLACKHOLE,
    RTN_UNICAST,
)
from sandnet.kernel.types import RT_TABLE_MAIN

_REFUSING: Final = 0xFFFFFFFF
"""Metric of the route that refuses: any other one comes before it."""
_METRIC: Final = 1024
"""Metric of the route to the link, the kernel's default for IPv6."""


class TunnelRoute(NamedTuple):
    """A route of the main table to exactly the range."""

    kind: int
    metric: int
    ifindex: int
    source: bytes


def refuse(netlink: Netlink, addresses: IPv6Network) -> None:
    """Add the route that drops packets to a range for which there is no other route."""
    body = _route(addresses, RTN_BLACKHOLE, _REFUSING)
    netlink.call(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def route_through(netlink: Netlink, addresses: IPv6Network, index: int, source: IPv6Address) -> None:
    """Route a range to a link, with a source for packets of this host; this replaces another link or source at once."""
    body = _route(addresses, RTN_UNICAST, _METRIC) + u32(RTA_OIF, index) + attribute(RTA_PREFSRC, source.packed)
    netlink.call(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_REPLACE)


def is_refused(routes: list[TunnelRoute]) -> bool:
    """Return whether the route of :func:`refuse` is among them."""
    return any((route.kind, route.metric) == (RTN_BLACKHOLE, _REFUSING) for route in routes)


def is_through(routes: list[TunnelRoute], index: int, source: IPv6Address) -> bool:
    """Return whether packets take the route of :func:`route_through`."""
    first = min(routes, key=lambda route: route.metric, default=None)
    return first is not None and (first.kind, first.ifindex, first.source) == (RTN_UNICAST, index, source.packed)


def routes_to(netlink: Netlink, addresses: IPv6Network) -> list[TunnelRoute]:
    """List the routes of the main table to exactly a range."""
    return [*_dumped(netlink, addresses)]


def remove(netlink: Netlink, addresses: IPv6Network) -> None:
    """Remove all routes to exactly a range."""
    for route in routes_to(netlink, addresses):
        body = _route(addresses, route.kind, route.metric) + u32(RTA_OIF, route.ifindex)
        netlink.call(RTM_DELROUTE, body, accept=(errno.ESRCH,))


def _route(addresses: IPv6Network, kind: int, metric: int) -> bytes:
    head = (socket.AF_INET6, addresses.prefixlen, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_UNIVERSE, kind, 0)
    return RTMSG.pack(*head) + attribute(RTA_DST, addresses.network_address.packed) + u32(RTA_PRIORITY, metric)


def _dumped(netlink: Netlink, addresses: IPv6Network) -> Iterator[TunnelRoute]:
    query = RTMSG.pack(socket.AF_INET6, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    for body in netlink.dump(RTM_GETROUTE, query):
        family, length, _src, _tos, table, _protocol, _scope, kind, _flags = RTMSG.unpack_from(body)
        parts = attributes(body, RTMSG.size)
        destination = parts.get(RTA_DST, b"")
        if (family, table, length, destination) == (
            socket.AF_INET6,
            RT_TABLE_MAIN,
            addresses.prefixlen,
            addresses.network_address.packed,
        ):
            yield TunnelRoute(
                kind,
                to_number(parts.get(RTA_PRIORITY)),
                to_number(parts.get(RTA_OIF)),
                parts.get(RTA_PREFSRC, b""),
            )
