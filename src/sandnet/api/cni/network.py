"""The network of a configuration: its name, and the options with which it is created if it does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, summarize_address_range
from typing import Final

from msgspec.structs import replace

from sandnet.api import parsing
from sandnet.api.cni.call import Call
from sandnet.api.cni.errors import UNSUPPORTED_FIELD
from sandnet.api.subnet_options import check
from sandnet.errors import invalid
from sandnet.model import NetworkOptions, NetworkSpec
from sandnet.model.interfaces.dhcp_lease import DHCP
from sandnet.wire import cni as wire

_USUAL_DRIVER: Final = "bridge"
_MACVLAN: Final = "macvlan"
_DRIVERS: Final = (_USUAL_DRIVER, _MACVLAN, "overlay")
"""The drivers of networks that a configuration can describe."""
_DEFAULT_ROUTES: Final = {"0.0.0.0/0", "::/0"}


def network_spec(call: Call) -> NetworkSpec:
    """Return the spec of the network that the configuration names.

    Raises:
        Error: ``INVALID``.
    """
    configuration = call.configuration
    driver, ipam = driver_of(configuration), configuration.ipam or wire.Ipam()
    options = NetworkOptions(
        mtu=configuration.mtu or None,
        internal=bool(configuration.internal),
        parent=parsing.link_name(configuration.master, "master") if configuration.master else None,
        macvlan_mode=parsing.macvlan_mode(configuration.mode, "mode") if configuration.mode else None,
        ipam_driver=_ipam_driver(ipam, driver),
    )
    for each in _ranges(ipam):
        options = _with_range(options, each)
    return NetworkSpec(name=call.network, driver=driver, options=check(options))


def driver_of(configuration: wire.Configuration) -> str:
    """Return the driver that the configuration names, or that of networks without one.

    Raises:
        Error: ``INVALID``.
    """
    driver = configuration.driver or _USUAL_DRIVER
    if driver not in _DRIVERS:
        hint = f"use {', '.join(_DRIVERS)}, or create the network and leave driver out"
        raise invalid(f"driver: {driver[:40]!r} is unknown here", hint, UNSUPPORTED_FIELD)
    for name in ("master", "mode"):
        if getattr(configuration, name) and driver != _MACVLAN:
            raise invalid(f"{name} is for macvlan networks", f"add driver: {_MACVLAN}", UNSUPPORTED_FIELD)
    return driver


def _ipam_driver(ipam: wire.Ipam, driver: str) -> str | None:
    """Return what gives the addresses; ``None``: the daemon does."""
    if ipam.type and (ipam.type != DHCP or driver != _MACVLAN):
        message = f"ipam.type: addresses are given by sandnet, not by the plugin {ipam.type[:40]!r}"
        hint = f"leave the type out; {DHCP} is for macvlan networks (driver: {_MACVLAN})"
        raise invalid(message, hint, UNSUPPORTED_FIELD)
    return ipam.type or None


def _ranges(ipam: wire.Ipam) -> Iterator[wire.Range]:
    for route in ipam.routes or ():
        if route.dst not in _DEFAULT_ROUTES:
            raise invalid(
                f"ipam.routes: only a default route can be set, not {route.dst[:40]!r}", "", UNSUPPORTED_FIELD
            )
    if ipam.subnet:
        yield wire.Range(subnet=ipam.subnet, gateway=ipam.gateway)
    elif ipam.gateway:
        raise invalid(f"ipam.gateway: {ipam.gateway} needs a subnet", "give ipam.subnet too")
    for alternatives in ipam.ranges or ():
        yield from alternatives


def _with_range(options: NetworkOptions, given: wire.Range) -> NetworkOptions:
    """Return the options with a subnet, at most one a family, and the part of it that addresses are taken from."""
    if not given.subnet:
        raise invalid("ipam.ranges: a range needs a subnet")
    if ":" in given.subnet:
        return _with_ipv6_range(options, given)
    if options.subnet:
        raise invalid("ipam: a network has one IPv4 subnet", "name one", UNSUPPORTED_FIELD)
    subnet = parsing.ipv4_masked(given.subnet, "ipam.subnet")
    gateway = parsing.ipv4(given.gateway, "ipam.gateway") if given.gateway else None
    return replace(options, subnet=subnet, gateway=gateway, ip_range=_part(subnet, given))


def _with_ipv6_range(options: NetworkOptions, given: wire.Range) -> NetworkOptions:
    if options.subnet_ipv6:
        raise invalid("ipam: a network has one IPv6 subnet", "name one", UNSUPPORTED_FIELD)
    if given.range_start or given.range_end:
        raise invalid("ipam: an IPv6 subnet is used as a whole", "leave rangeStart and rangeEnd out", UNSUPPORTED_FIELD)
    subnet: IPv6Network = parsing.ipv6_masked(given.subnet, "ipam.subnet")
    gateway: IPv6Address | None = parsing.ipv6(given.gateway, "ipam.gateway") if given.gateway else None
    return replace(options, ipv6=True, subnet_ipv6=subnet, gateway_ipv6=gateway)


def _part(subnet: IPv4Network, given: wire.Range) -> IPv4Network | None:
    """Return the prefix from ``rangeStart`` to ``rangeEnd``; ``None``: the whole subnet.

    The first and the last address of a prefix may be left out, as nothing can have those of a subnet.
    """
    if not given.range_start and not given.range_end:
        return None
    first = parsing.ipv4(given.range_start, "ipam.rangeStart") if given.range_start else subnet.network_address
    last = parsing.ipv4(given.range_end, "ipam.rangeEnd") if given.range_end else subnet.broadcast_address
    for start in (first, first - 1):
        for end in (last, last + 1):
            prefixes = list(summarize_address_range(start, end)) if _ordered(start, end) else []
            if len(prefixes) == 1:
                return None if prefixes[0] == subnet else prefixes[0]
    hint = "write it like rangeStart 10.1.0.64 and rangeEnd 10.1.0.127"
    raise invalid(f"ipam: {first} to {last} is no prefix", hint, UNSUPPORTED_FIELD)


def _ordered(start: IPv4Address, end: IPv4Address) -> bool:
    return start <= end
