"""Finds the address by which other hosts reach this one, and the MTU of the way to them.

Layouts and numbers: ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.netlink.route_sources import Path, dump_widest
from sandnet.kernel.netlink.rtnetlink import dump_ports, list_addresses
from sandnet.kernel.netlink.socket import Netlink, attribute, attributes, to_number, u32
from sandnet.kernel.netlink.uapi.message_numbers import RTM_GETROUTE
from sandnet.kernel.netlink.uapi.route_numbers import RTA_DST, RTA_METRICS, RTA_OIF, RTA_PREFSRC, RTAX_MTU, RTMSG
from sandnet.kernel.vxlan.base import Underlay
from sandnet.model.address import Address

_NO_ROUTE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
_HINT: Final = "name an address of this host that the other hosts reach (--underlay)"


def find_underlay(netlink: Netlink, address: Address | None) -> Underlay:
    """Return the underlay; see :meth:`sandnet.kernel.vxlan.base.VxlanPorts.underlay`.

    Raises:
        Error: ``UNAVAILABLE``, code ``no_underlay``.
    """
    links = {port.link.ifindex: port.link for port in dump_ports(netlink)}
    if address is not None:
        for index, link in links.items():
            if any(own.ip == address for own in list_addresses(netlink, index)):
                return Underlay(address, link.name, link.mtu)
        raise _not_found(f"no link of this host has the underlay address {address}")
    for path in _default_paths(netlink):
        own = _source(netlink, path)
        if own is not None and path.link in links:
            return Underlay(own, links[path.link].name, links[path.link].mtu)
    raise _not_found("this host has no default route from which its underlay address could be found")


def path_mtu(netlink: Netlink, host: Address) -> int:
    """Return the MTU of the route to another host; 0: there is none."""
    found = _route_to(netlink, host.packed, 0)
    if found is None:
        return 0
    metrics = attributes(found.get(RTA_METRICS, b""))
    known = to_number(metrics.get(RTAX_MTU))
    index = to_number(found.get(RTA_OIF))
    of_link = next((port.link.mtu for port in dump_ports(netlink) if port.link.ifindex == index), 0)
    return min(filter(None, (known, of_link)), default=0)


def _default_paths(netlink: Netlink) -> Iterator[Path]:
    """Yield the next hops of default routes, the one that the kernel prefers first, IPv4 before IPv6."""
    widest = [path for path in dump_widest(netlink) if path.span[0] == 0 and path.span[1] + 1 in (1 << 32, 1 << 128)]
    yield from sorted(widest, key=lambda path: (path.family != socket.AF_INET, path.rank))


def _source(netlink: Netlink, path: Path) -> Address | None:
    """Return the source address of packets that take a default route."""
    if path.source:
        return ip_address(path.source)
    if path.family == socket.AF_INET and path.gateway:
        found = _route_to(netlink, path.gateway, path.link)
        source = found.get(RTA_PREFSRC) if found else None
        if source:
            return ip_address(source)
    version = 4 if path.family == socket.AF_INET else 6
    own = (each.ip for each in list_addresses(netlink, path.link))
    return next((each for each in own if each.version == version and not each.is_link_local), None)


def _route_to(netlink: Netlink, destination: bytes, link: int) -> dict[int, bytes] | None:
    """Return the attributes of the route that the kernel would take, through any link or one; ``None``: none."""
    family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
    query = RTMSG.pack(family, 8 * len(destination), 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, destination)
    body = netlink.get(RTM_GETROUTE, query + (u32(RTA_OIF, link) if link else b""), absent=_NO_ROUTE)
    return attributes(body, RTMSG.size) if body else None


def _not_found(message: str) -> Error:
    return Error(Kind.UNAVAILABLE, message, _HINT, "no_underlay")
