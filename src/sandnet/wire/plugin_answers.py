"""The answers of network plugins to the daemon, which calls them as a container engine does.

Two generations of the protocol are read: of 2015, and the present one. Plugins leave fields out, send ``null``, and
send more than they need to: every field has a default, and unknown ones are ignored.
"""

from __future__ import annotations

from msgspec import Struct, field

from sandnet.wire.plugin import EndpointInterface


class Activated(Struct, kw_only=True):
    """The answer to ``Plugin.Activate``."""

    implements: tuple[str, ...] | None = field(name="Implements", default=None)


class Failed(Struct, kw_only=True):
    """What every answer may have: the reason of a refusal."""

    error: str | None = field(name="Err", default=None)
    ipam_error: str | None = field(name="Error", default=None)


class Nothing(Struct, kw_only=True):
    """An answer whose fields have no meaning here."""


class EndpointAnswer(Struct, kw_only=True):
    """The answer to ``CreateEndpoint``."""

    interface: EndpointInterface | None = field(name="Interface", default=None)
    interfaces: tuple[EndpointInterface, ...] | None = field(name="Interfaces", default=None)
    """Of 2015."""


class LinkName(Struct, kw_only=True):
    """The link to be moved, and the prefix of its name inside."""

    source: str | None = field(name="SrcName", default=None)
    prefix: str | None = field(name="DstPrefix", default=None)


class PluginRoute(Struct, kw_only=True):
    """A static route."""

    destination: str | None = field(name="Destination", default=None)
    kind: int | None = field(name="RouteType", default=None)
    """0: by ``next_hop``; 1: the destination is on the link."""
    next_hop: str | None = field(name="NextHop", default=None)


class JoinReply(Struct, kw_only=True):
    """The answer to ``Join``."""

    interface: LinkName | None = field(name="InterfaceName", default=None)
    interfaces: tuple[LinkName, ...] | None = field(name="InterfaceNames", default=None)
    """Of 2015."""
    gateway: str | None = field(name="Gateway", default=None)
    gateway_ipv6: str | None = field(name="GatewayIPv6", default=None)
    routes: tuple[PluginRoute, ...] | None = field(name="StaticRoutes", default=None)
