"""Endpoints (services are endpoints too) as records."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import msgspec

from sandnet.model.network import Phase
from sandnet.model.ports import BoundPort, ExposedPort, PortMapping
from sandnet.model.process import Process


class Affinity(StrEnum):
    """What keeps going to the same backend of a service."""

    FLOW = "flow"
    """A flow: the same addresses and ports."""
    CLIENT = "client"
    """A client's address: for protocols that open a second connection (FTP, iperf3)."""


class ProbeKind(StrEnum):
    """How a backend is asked whether it serves."""

    TCP = "tcp"
    """It accepts a connection."""
    HTTP = "http"
    """It answers GET with a status below 400."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """How the backends of a service are checked, each from inside its own sandbox.

    One that fails twice in a row, the second time at once after the first, leaves the rotation: with a
    timeout of at most half the interval that is within two intervals.
    """

    kind: ProbeKind
    port: int
    """1 to 65535, at the backend's own address."""
    path: str = "/"
    """What is asked of an HTTP backend."""
    interval: float = 2.0
    """Seconds from probe to probe, 0.1 to 3600."""
    timeout: float = 1.0
    """Seconds a probe may take, at most half the interval."""


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
    probe: Probe | None = None
    process: Process | None = None
    """When this one ends, the endpoint goes, and takes along who is attached."""
    orphaned: bool = False
    """Its last container died instead of leaving, and nobody has joined since."""


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
    probe: Probe | None = None
    watch_pid: int = 0
    """Process that the endpoint is to go with; 0: none."""
