"""The link of an attachment that another program made: a network plugin names it, and the daemon moves it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import msgspec

from sandnet.model.address import Address, Prefix

_ALIAS = "sandnet-supplied"


class StaticRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of a sandbox through one of its interfaces."""

    destination: Prefix
    gateway: Address | None = None
    """Next hop; ``None``: the destination is on the link."""


class SuppliedLink(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a plugin to a join."""

    source: str
    """The name of the link on the host, from which it is moved into the sandbox, and which it gets back at the end."""
    gateway: IPv4Address | None = None
    gateway_ipv6: IPv6Address | None = None
    """Next hops of the default routes; ``None``: the network offers none."""
    routes: tuple[StaticRoute, ...] = ()


def supplied_alias(endpoint_id: str) -> str:
    """Return the alias by which the moved link of an endpoint is recognised, wherever it is and however it is named."""
    return f"{_ALIAS} {endpoint_id}"
