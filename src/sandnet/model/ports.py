"""Ports: exposed by an endpoint, asked of the host, and bound on it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

import msgspec

from sandnet.model.address import Address

TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132
PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
"""The transports that have ports, by name (IANA protocol numbers)."""
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


class ExposedPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port the container listens on: documentation for clients, no kernel effect."""

    proto: int
    """IP protocol number, 0 to 255 (6 TCP, 17 UDP, 132 SCTP)."""
    port: int
    """1 to 65535."""


class PortMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A wish: publish ``port`` of the container on the host."""

    proto: int
    port: int
    host_ip: Address | None = None
    """Host address to bind; ``None``: the network's default binding address, else all addresses."""
    host_port: int = 0
    """0: the next free one of the kernel's local port range."""
    host_port_end: int = 0
    """Last of a range of which the first free port is taken; 0: ``host_port`` alone."""


class BoundPort(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping as it stands on the host: one host address and one host port."""

    proto: int
    port: int
    host_ip: Address
    """``0.0.0.0`` and ``::`` stand for every address of their family."""
    host_port: int


ANY4 = IPv4Address("0.0.0.0")  # noqa: S104 - the meaning of a mapping without an address, not a bind of ours


ANY6 = IPv6Address("::")
