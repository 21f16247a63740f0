"""Options of one interface of a sandbox: static routes, and kernel parameters from an allow-list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Final

import msgspec

from sandnet.errors import invalid
from sandnet.model.address import Address, Prefix
from sandnet.model.supplied_link import StaticRoute

IFNAME: Final = "IFNAME"
"""Stands for the interface's name in a parameter, as Docker has it."""
MAX_ROUTES: Final = 64
MAX_SYSCTLS: Final = 64
RESERVED_NAMES: Final = frozenset({"lo", "all", "default"})
"""Names that no interface can have: the loopback's, and directories of parameters of all interfaces."""
_CONF4: Final = frozenset(
    {
        *("accept_local", "accept_redirects", "accept_source_route", "arp_accept", "arp_filter", "arp_notify"),
        *("drop_gratuitous_arp", "drop_unicast_in_l2_multicast", "force_igmp_version", "forwarding"),
        *("ignore_routes_with_linkdown", "log_martians", "promote_secondaries", "proxy_arp", "rp_filter"),
        *("secure_redirects", "send_redirects", "src_valid_mark"),
    }
)
_CONF6: Final = frozenset(
    {
        *("accept_redirects", "accept_source_route", "accept_untracked_na", "drop_unicast_in_l2_multicast"),
        *("drop_unsolicited_na", "force_mld_version", "forwarding", "hop_limit", "ignore_routes_with_linkdown"),
        *("keep_addr_on_down", "ndisc_notify", "proxy_ndp", "suppress_frag_ndisc"),
    }
)
_NEIGH: Final = frozenset(
    {
        *("app_solicit", "base_reachable_time_ms", "delay_first_probe_time", "gc_stale_time", "locktime"),
        *("mcast_solicit", "retrans_time_ms", "ucast_solicit", "unres_qlen"),
    }
)
ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "net.ipv4.conf": _CONF4,
    "net.ipv6.conf": _CONF6,
    "net.ipv4.neigh": _NEIGH,
    "net.ipv6.neigh": _NEIGH,
}
"""Parameters that a join may set, by directory. Not among them is what sandnet itself relies on: whether IPv6 is on,
which addresses ARP answers for, and router advertisements."""
_NAME: Final = re.compile(r"(?P<directory>net\.ipv[46]\.(conf|neigh))\.IFNAME\.(?P<name>[a-z0-9_]{1,40})")
_VALUE: Final = re.compile(r"-?[0-9]{1,10}")


class InterfaceOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a join requests of its interface besides its name."""

    routes: tuple[StaticRoute, ...] = ()
    sysctls: dict[str, str] = {}
    """By name, with :data:`IFNAME` for the interface."""


def check_sysctls(requested: Mapping[str, str | int], field: str) -> dict[str, str]:
    """Return the parameters, each value as text.

    Raises:
        Error: ``INVALID``: a name is not allowed, or a value is no number.
    """
    if len(requested) > MAX_SYSCTLS:
        raise invalid(f"{field}: {len(requested)} are too many", f"give at most {MAX_SYSCTLS}")
    found = {}
    for name, value in requested.items():
        match = _NAME.fullmatch(name)
        if match is None or match["name"] not in ALLOWED[match["directory"]]:
            hint = "name it as net.ipv4.conf.IFNAME.rp_filter; allowed: docs/drivers.md"
            raise invalid(f"{field}: parameter {name[:80]!r} cannot be set", hint, "sysctl_not_allowed")
        if isinstance(value, bool) or not _VALUE.fullmatch(str(value)):
            raise invalid(f"{field}: {name}: {str(value)[:40]!r} is not a whole number")
        found[name] = str(value)
    return found


def parse_sysctls(text: str, field: str) -> dict[str, str]:
    """Parse ``NAME=VALUE,NAME=VALUE``, as Docker has it.

    Raises:
        Error: ``INVALID``.
    """
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    return check_sysctls({name: value for name, _, value in pairs}, field)


def sysctl_path(name: str, interface: str) -> str:
    """Return the path below ``/proc/sys`` of an allowed parameter of an interface, whose name may have dots."""
    head, _, last = name.partition(f".{IFNAME}.")
    return f"{head.replace('.', '/')}/{interface}/{last}"


def check_routes(routes: Iterable[StaticRoute], subnets: Mapping[int, Prefix | None], field: str) -> None:
    """Refuse routes that an interface with these subnets cannot have.

    Args:
        routes: the routes.
        subnets: the interface's subnet by version of IP.
        field: for messages.

    Raises:
        Error: ``INVALID``.
    """
    for route in routes:
        what, subnet = f"{field}: {route.destination}", subnets[route.destination.version]
        if subnet is None:
            message = f"{what}: the interface has no IPv{route.destination.version} subnet that is known"
            raise invalid(message, "name the subnet, or leave the route out", "no_such_family")
        if route.destination.overlaps(subnet):
            raise invalid(f"{what} overlaps the interface's own subnet {subnet}", code="route_overlaps")
        if route.gateway is not None and route.gateway not in subnet:
            hint = "a next hop is a neighbour on the network"
            raise invalid(f"{what}: next hop {route.gateway} is not in the subnet {subnet}", hint, "unreachable_hop")


def static_route(destination: Prefix, gateway: Address | None, field: str) -> StaticRoute:
    """Return a route, unless no sandbox may have it.

    Raises:
        Error: ``INVALID``: it is a default route, or leads to special addresses.
    """
    if destination.prefixlen == 0:
        hint = "choose the network with the default route by gateway_priority"
        raise invalid(f"{field}: {destination} is a default route", hint, "default_route")
    special = [ip_network(each) for each in _SPECIAL]
    if any(each.version == destination.version and each.overlaps(destination) for each in special):
        raise invalid(f"{field}: {destination} has loopback, link-local or multicast addresses", code="special_prefix")
    if gateway is not None and gateway.version != destination.version:
        raise invalid(f"{field}: {destination} and its next hop {gateway} are of two families")
    return StaticRoute(destination=destination, gateway=gateway)


_SPECIAL: Final = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")
