"""Records of ports: exposed by an endpoint, requested on the host, and bound on the host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

import msgspec

from sandnet.model.address import Address

TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132
PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
"""Transport protocols with ports, by name (IANA protocol numbers)."""
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


class ExposedPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port on which the container listens: information for clients, without an effect in the kernel."""

    proto: int
    """IP protocol number, 0 to 255 (6 TCP, 17 UDP, 132 SCTP)."""
    port: int
    """1 to 65535."""


class PortMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A request to publish ``port`` of the container on the host."""

    proto: int
    port: int
    host_ip: Address | None = None
    """Host address to bind; ``None``: the network's default binding address, else all addresses."""
    host_port: int = 0
    """Requested host port; 0: the next free port in the kernel's local port range."""
    host_port_end: int = 0
    """Last port of a range from which the first free port is allocated; 0: ``host_port`` only."""
    shared: bool = False
    """Whether the container runtime binds the port too: then it is only checked to be free, and not bound."""
    held: bool = False
    """Whether that runtime has bound the port already, so that it is not checked either."""


class BoundPort(msgspec.Struct, frozen=True, kw_only=True):
    """A published port: one host address and one host port."""

    proto: int
    port: int
    host_ip: Address
    """``0.0.0.0`` and ``::`` stand for every address of their family."""
    host_port: int
    shared: bool = False
    """Whether the container runtime binds the port, and not the daemon."""


def mapping_of(port: BoundPort) -> PortMapping:
    """Return the request that leads to a published port, and to no other."""
    return PortMapping(
        proto=port.proto, port=port.port, host_ip=port.host_ip, host_port=port.host_port, shared=port.shared
    )


ANY4 = IPv4Address("0.0.0.0")  # noqa: S104 - meaning of a mapping without an address; we do not bind to it


ANY6 = IPv6Address("::")


class DirectPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of an endpoint that is open at the endpoint's own address, as its network is routed in that family."""

    version: int
    """Of IP: 4 or 6."""
    proto: int
    port: int
