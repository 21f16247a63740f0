"""Validate the answers of plugins, and put them into the daemon's records. A wrong value is a ``ValueError``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, TypeVar

from msgspec.structs import replace

from sandnet.drivers.base import Supply
from sandnet.model import Address, Endpoint, Interface
from sandnet.model.link_names import LINK_NAME
from sandnet.model.supplied_link import StaticRoute, SuppliedLink
from sandnet.wire.plugin import EndpointInterface
from sandnet.wire.plugin_answers import EndpointAnswer, JoinReply, LinkName, PluginRoute

T = TypeVar("T")

_MOST_ROUTES: Final = 256
_DEFAULT_PREFIX: Final = "eth"
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,11}")
"""A prefix leaves room for a number of three digits."""
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def endpoint_with(ep: Endpoint, answer: EndpointAnswer) -> Endpoint:
    """Return the endpoint with what the plugin chose of its addresses and its MAC.

    What the request contained cannot be changed by the answer.
    """
    given = answer.interface or _only(answer.interfaces or (), "interfaces") or EndpointInterface()
    ipv4 = _address(given.address, IPv4Interface) if not ep.address else None
    ipv6 = _address(given.address_ipv6, IPv6Interface) if not ep.address_ipv6 else None
    mac = _mac(given.mac) if given.mac and not ep.mac else ""
    return replace(ep, address=ipv4 or ep.address, address_ipv6=ipv6 or ep.address_ipv6, mac=mac or ep.mac)


def supply(answer: JoinReply) -> Supply | None:
    """Return the link that the plugin supplied; ``None``: it supplied none."""
    named = answer.interface or _only(answer.interfaces or (), "interfaces") or LinkName()
    if not named.source:
        return None
    if not LINK_NAME.fullmatch(named.source):
        raise ValueError(f"SrcName {named.source[:40]!r} cannot be the name of a link")
    prefix = named.prefix or _DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"DstPrefix {prefix[:40]!r} cannot begin the name of an interface")
    if len(answer.routes or ()) > _MOST_ROUTES:
        raise ValueError(f"more than {_MOST_ROUTES} routes")
    gateway, gateway_ipv6 = _gateway(answer.gateway, 4), _gateway(answer.gateway_ipv6, 6)
    link = SuppliedLink(
        source=named.source,
        gateway=gateway if isinstance(gateway, IPv4Address) else None,
        gateway_ipv6=gateway_ipv6 if isinstance(gateway_ipv6, IPv6Address) else None,
        routes=tuple(map(_route, answer.routes or ())),
    )
    return Supply(link, prefix)


def _only(found: Sequence[T], what: str) -> T | None:
    if len(found) > 1:
        raise ValueError(f"{len(found)} {what}: an endpoint has one")
    return found[0] if found else None


def _address(text: str | None, kind: type[IPv4Interface | IPv6Interface]) -> Interface | None:
    if not text:
        return None
    found = ip_interface(text)
    if not isinstance(found, kind) or "/" not in text:
        raise ValueError(f"{text[:60]!r} is not an address of the right family with a prefix length")
    if found.ip.is_unspecified or found.ip.is_multicast or found.ip.is_loopback or found.network.prefixlen == 0:
        raise ValueError(f"{found} cannot be the address of an interface")
    return found


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        raise ValueError(f"{text[:40]!r} is no MAC of an interface")
    return text.lower()


def _gateway(text: str | None, version: int) -> Address | None:
    if not text:
        return None
    found = ip_address(text.partition("/")[0])
    if found.version != version or found.is_unspecified or found.is_multicast:
        raise ValueError(f"{text[:60]!r} is no IPv{version} gateway")
    return found


def _route(route: PluginRoute) -> StaticRoute:
    destination = ip_network(route.destination or "", strict=False)
    if destination.prefixlen == 0:
        raise ValueError("a default route is not a static one: it is Gateway or GatewayIPv6")
    gateway = _gateway(route.next_hop, destination.version) if not route.kind else None
    if not route.kind and gateway is None:
        raise ValueError(f"the route to {destination} has no next hop")
    return StaticRoute(destination=destination, gateway=gateway)
