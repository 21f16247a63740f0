"""Endpoints (services are endpoints too) as records."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import msgspec

from sandnet.model.network import Phase
from sandnet.model.ports import BoundPort, ExposedPort, PortMapping


class Affinity(StrEnum):
    """What keeps going to the same backend of a service."""

    FLOW = "flow"
    """A flow: the same addresses and ports."""
    CLIENT = "client"
    """A client's address: for protocols that open a second connection (FTP, iperf3)."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A network's end towards sandboxes. Its address, MAC and host ports are its own from create to delete."""

    id: str
    name: str
    """As given, a leading slash included; unique in its network."""
    network_id: str
    phase: Phase
    sequence: int
    created: float
    address: IPv4Interface | None = None
    address_ipv6: IPv6Interface | None = None
    mac: str = ""
    """Lower-case, colon-separated; empty for drivers without links."""
    exposed_ports: tuple[ExposedPort, ...] = ()
    ports: tuple[BoundPort, ...] = ()
    """What is bound on the host, held from create to delete."""
    labels: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    """Further names by which its network knows it."""
    affinity: Affinity = Affinity.FLOW


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish to create an endpoint."""

    name: str
    exposed_ports: tuple[ExposedPort, ...] = ()
    port_mapping: tuple[PortMapping, ...] = ()
    address: IPv4Address | None = None
    address_ipv6: IPv6Address | None = None
    mac: str = ""
    labels: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    affinity: Affinity = Affinity.FLOW
