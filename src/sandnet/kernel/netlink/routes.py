"""The requests about routes that we make, as functions over a :class:`Netlink` socket.

Layouts and numbers: ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Request,
    attribute,
    attributes,
    to_number,
    u32,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE
from sandnet.kernel.netlink.uapi.route_numbers import (
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTMSG,
    RTN_LOCAL,
    RTN_UNICAST,
    RTPROT_KERNEL,
    RTPROT_STATIC,
)
from sandnet.kernel.types import RT_TABLE_MAIN
from sandnet.model.address import Address, Interface, Prefix

ROUTE_PROTOCOL: Final = 115
"""The routing protocol number that identifies our routes (``rtm_protocol``; 4 is ``static``, routing daemons use 186
and up)."""
_IP6_RT_PRIO_ADDRCONF: Final = 256
"""The metric of the IPv6 routes that the kernel adds with an address (``net/ip6_route.h``)."""
_LOOPBACK: Final = 1
"""Index of ``lo`` in each network namespace (``LOOPBACK_IFINDEX``, ``net/flow.h``)."""
_GROUPS: Final = ((bytes([224, 0, 0, 0]), 4), (bytes([255] * 4), 32))
"""Multicast (RFC 1112) and the limited broadcast (RFC 919)."""


class RouteEntry(NamedTuple):
    """A route of the main table."""

    destination: bytes
    """In network order; empty: everything."""
    length: int
    gateway: bytes
    """Empty: the destination is on the link."""
    ifindex: int
    protocol: int


class Route(NamedTuple):
    """A default route."""

    gateway: Address
    ifindex: int


def index_of_route(body: bytes) -> int:
    """Return the index of the link that a route's message is about; 0: none, or several."""
    return to_number(attributes(body, RTMSG.size).get(RTA_OIF))


def dump_routes(netlink: Netlink, family: int, index: int = 0) -> Iterator[RouteEntry]:
    """Yield the unicast routes of the main table, through any link or one."""
    query = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0) + (u32(RTA_OIF, index) if index else b"")
    for body in netlink.dump(RTM_GETROUTE, query):
        route_family, length, _src, _tos, table, protocol, _scope, kind, _flags = RTMSG.unpack_from(body)
        if (route_family, table, kind) == (family, RT_TABLE_MAIN, RTN_UNICAST):
            parts = attributes(body, RTMSG.size)
            gateway, ifindex = parts.get(RTA_GATEWAY, b""), to_number(parts.get(RTA_OIF))
            yield RouteEntry(parts.get(RTA_DST, b""), length, gateway, ifindex, protocol)


def is_deliverable(netlink: Netlink, address: Address) -> bool:
    """Return whether the host accepts packets to an address, through any link: one request."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    query = RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address.packed)
    body = netlink.get(RTM_GETROUTE, query, absent=(errno.ENETUNREACH, errno.EHOSTUNREACH))
    return body is not None and RTMSG.unpack_from(body)[7] == RTN_LOCAL


def is_local(netlink: Netlink, index: int, address: Address) -> bool:
    """Return whether the host accepts packets to an address on a certain link: a list of all local routes."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    query = RTMSG.pack(family, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, 0, 0) + u32(RTA_OIF, index)
    for body in netlink.dump(RTM_GETROUTE, query):
        kind, parts = RTMSG.unpack_from(body)[7], attributes(body, RTMSG.size)
        if kind == RTN_LOCAL and parts.get(RTA_DST) == address.packed and to_number(parts.get(RTA_OIF)) == index:
            return True
    return False


def has_local(netlink: Netlink, prefix: Prefix) -> bool:
    """Return whether our route to a prefix is there."""
    family = socket.AF_INET6 if prefix.version == 6 else socket.AF_INET
    query = RTMSG.pack(family, 0, 0, 0, RT_TABLE_LOCAL, ROUTE_PROTOCOL, 0, 0, 0)
    wanted = family, prefix.prefixlen, RT_TABLE_LOCAL, ROUTE_PROTOCOL, RTN_LOCAL
    for body in netlink.dump(RTM_GETROUTE, query):
        found, length, _src, _tos, table, protocol, _scope, kind, _flags = RTMSG.unpack_from(body)
        destination = attributes(body, RTMSG.size).get(RTA_DST)
        if (found, length, table, protocol, kind) == wanted and destination == prefix.network_address.packed:
            return True
    return False


def add_local(netlink: Netlink, prefix: Prefix) -> bool:
    """Route a prefix to the host itself; ``False``: it is."""
    return netlink.call(RTM_NEWROUTE, _local_body(prefix), NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def delete_local(netlink: Netlink, prefix: Prefix) -> None:
    """Delete our route to a prefix; an absent one, or an absent family, is success."""
    netlink.call(RTM_DELROUTE, _local_body(prefix), accept=(errno.ESRCH, errno.EAFNOSUPPORT, errno.EOPNOTSUPP))


def _local_body(prefix: Prefix) -> bytes:
    family = socket.AF_INET6 if prefix.version == 6 else socket.AF_INET
    head = RTMSG.pack(family, prefix.prefixlen, 0, 0, RT_TABLE_LOCAL, ROUTE_PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL, 0)
    return head + attribute(RTA_DST, prefix.network_address.packed) + u32(RTA_OIF, _LOOPBACK)


def add_connected(netlink: Netlink, index: int, address: Interface) -> bool:
    """Route the subnet of an address to its link, as the kernel does when the address is added; ``False``: it is."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    scope = RT_SCOPE_UNIVERSE if address.version == 6 else RT_SCOPE_LINK
    prefix = address.network
    head = (family, prefix.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_KERNEL, scope, RTN_UNICAST, 0)
    body = RTMSG.pack(*head) + attribute(RTA_DST, prefix.network_address.packed) + u32(RTA_OIF, index)
    if address.version == 6:
        body += u32(RTA_PRIORITY, _IP6_RT_PRIO_ADDRCONF)
    else:
        body += attribute(RTA_PREFSRC, address.ip.packed)
    return netlink.call(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def is_of_kernel(route: RouteEntry) -> bool:
    """Return whether the kernel made the route by itself."""
    return route.protocol == RTPROT_KERNEL


def add_static(netlink: Netlink, index: int, destination: Prefix, gateway: Address | None) -> bool:
    """Route a prefix through a link, as an administrator would; ``False``: there is such a route.

    Args:
        netlink: where.
        index: the link's.
        destination: the prefix.
        gateway: the next hop; ``None``: the prefix is on the link.
    """
    family = socket.AF_INET6 if destination.version == 6 else socket.AF_INET
    scope = RT_SCOPE_UNIVERSE if gateway or destination.version == 6 else RT_SCOPE_LINK
    head = (family, destination.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0)
    body = RTMSG.pack(*head) + attribute(RTA_DST, destination.network_address.packed) + u32(RTA_OIF, index)
    hop = attribute(RTA_GATEWAY, gateway.packed) if gateway else b""
    return netlink.call(RTM_NEWROUTE, body + hop, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def _route_body(family: int, route: Route) -> bytes:
    header = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, 0, RTN_UNICAST, 0)
    return header + attribute(RTA_GATEWAY, route.gateway.packed) + u32(RTA_OIF, route.ifindex)


def _our_defaults(netlink: Netlink, family: int) -> Iterator[Route]:
    query = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, 0, 0, 0)
    for body in netlink.dump(RTM_GETROUTE, query):
        route_family, length, _src, _tos, table, protocol, *_rest = RTMSG.unpack_from(body)
        parts = attributes(body, RTMSG.size)
        ours = (route_family, length, table, protocol) == (family, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL)
        if ours and RTA_GATEWAY in parts:
            yield Route(ip_address(parts[RTA_GATEWAY]), to_number(parts.get(RTA_OIF)))


def ensure_default(netlink: Netlink, family: int, desired: Route | None) -> None:
    """Make ``desired`` the only default route of the family that bears our protocol number.

    Where another program's default route has the same metric, ours is not set. A route that is right already is not
    touched, so its traffic is not interrupted.
    """
    if desired and _add_default(netlink, family, desired):
        return
    present: Sequence[Route] = list(_our_defaults(netlink, family))
    if desired and present == [desired]:
        return
    for route in present:
        netlink.call(RTM_DELROUTE, _route_body(family, route), accept=(errno.ESRCH,))
    if desired:
        _add_default(netlink, family, desired)


def default_request(route: Route) -> Request:
    """Return the request that adds a default route of ours."""
    family = socket.AF_INET6 if route.gateway.version == 6 else socket.AF_INET
    return Request(RTM_NEWROUTE, _route_body(family, route), NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def group_requests(index: int) -> list[Request]:
    """Return the requests that route multicast and broadcast of IPv4 to a link (see :func:`ensure_groups`)."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return [
        Request(RTM_NEWROUTE, _group_body(address, length) + u32(RTA_OIF, index), flags, (errno.EEXIST,))
        for address, length in _GROUPS
    ]


def _group_body(address: bytes, length: int) -> bytes:
    head = (socket.AF_INET, length, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_LINK, RTN_UNICAST, 0)
    return RTMSG.pack(*head) + attribute(RTA_DST, address)


def ensure_groups(netlink: Netlink, index: int) -> None:
    """Route multicast and broadcast of IPv4 to a link, as a default route would; 0: they use the default route.

    IPv6 needs no such route: the kernel has one for groups on each link.
    """
    if index:
        netlink.batch(group_requests(index))
    else:
        for address, length in _GROUPS:
            netlink.call(RTM_DELROUTE, _group_body(address, length), accept=(errno.ESRCH,))


def _add_default(netlink: Netlink, family: int, route: Route) -> bool:
    body = _route_body(family, route)
    return netlink.call(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))
