"""Rules about ports and sysctl names that the real and the in-memory kernel share."""

from __future__ import annotations

import socket
from typing import Final

from sandnet.errors import Error, Kind, invalid
from sandnet.model.address import Address

SOCKET_TYPES: Final = {
    socket.IPPROTO_TCP: socket.SOCK_STREAM,
    socket.IPPROTO_UDP: socket.SOCK_DGRAM,
    socket.IPPROTO_SCTP: socket.SOCK_STREAM,
}


PROTOCOLS: Final = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}


MAX_PORT: Final = 65535


PortClaim = tuple[int, Address, int]


def check_port(proto: int, port: int) -> None:
    """Refuse a protocol without ports, or a number out of range.

    Raises:
        Error: ``INVALID``.
    """
    if proto not in SOCKET_TYPES:
        raise invalid(f"protocol {proto} has no ports that can be held", "use tcp (6), udp (17) or sctp (132)")
    if not 0 <= port <= MAX_PORT:
        raise invalid(f"port {port} is out of range", f"use 0 to {MAX_PORT}")


def conflicts(one: PortClaim, other: PortClaim) -> bool:
    """Return whether both cannot be held at once: the address is the same, or one of them is every address."""
    same = (one[0], one[1].version, one[2]) == (other[0], other[1].version, other[2])
    return same and (one[1] == other[1] or one[1].is_unspecified or other[1].is_unspecified)


def spelled(claim: PortClaim) -> str:
    """Return the claim in words: ``tcp port 80 on 0.0.0.0``."""
    proto, address, port = claim
    return f"{PROTOCOLS[proto]} port {port or '(any)'} on {address}"


def taken(claim: PortClaim, holder: str) -> Error:
    """Return a ``CONFLICT``: another process or endpoint has the port."""
    message = f"{spelled(claim)} is held {holder}"
    return Error(Kind.CONFLICT, message, "choose another host port, or end its holder", "port_taken")


def not_local(address: Address) -> Error:
    """Return a ``CONFLICT``: the host has no such address."""
    message = f"{address} is not an address of this host"
    return Error(Kind.CONFLICT, message, "bind to one of the host's addresses, or to all", "address_not_local")


def check_name(name: str) -> None:
    """Refuse a name that could lead out of the directory.

    Raises:
        Error: ``INVALID``.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise invalid(f"not the name of a sysctl: {name!r}", "write it as net/ipv4/ip_forward")
