"""Options of an interface in requests."""

from __future__ import annotations

from msgspec import Struct


class StaticRoute(Struct, kw_only=True, omit_defaults=True):
    """A static route."""

    destination: str
    """In CIDR notation."""
    gateway: str | None = None
    """A neighbour on the network; absent: the destination is on the link."""


class InterfaceRequest(Struct, kw_only=True, omit_defaults=True):
    """The fields of a join that are about its interface."""

    interface: str | None = None
    """Its name inside; absent: the first free one of ``eth0``, ``eth1``…"""
    routes: list[StaticRoute] | None = None
    sysctls: dict[str, str | int] | None = None
    """Kernel parameters, as ``net.ipv4.conf.IFNAME.rp_filter``."""
