"""IP addresses in records: the standard library's classes, taught to msgspec.

msgspec refuses a union of two custom types, and a port may be bound to either family. So at run time
``Address``, ``Interface`` and ``Prefix`` are abstract classes with both standard classes registered,
and :func:`encode_hook` / :func:`decode_hook` turn them to text and back. To a type checker they are
the unions themselves.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from abc import ABC
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface
    Prefix = IPv4Network | IPv6Network
else:

    class Address(ABC):
        """An IPv4 or IPv6 address."""

    class Interface(ABC):
        """An address with its prefix length, as a link carries it (``10.0.0.2/24``)."""

    class Prefix(ABC):
        """An IPv4 or IPv6 network (``10.0.0.0/24``)."""

    # An Interface of the standard library is also an Address: the hooks look at Interface first.
    for _abstract, _concrete in (
        (Interface, (IPv4Interface, IPv6Interface)),
        (Address, (IPv4Address, IPv6Address)),
        (Prefix, (IPv4Network, IPv6Network)),
    ):
        for _class in _concrete:
            _abstract.register(_class)

_PARSERS: dict[object, Any] = {
    Address: ipaddress.ip_address,
    Interface: ipaddress.ip_interface,
    Prefix: ipaddress.ip_network,
    **{cls: cls for cls in (IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network)},
}
_CLASSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)  # interfaces derive from addresses


def encode_hook(value: object) -> object:
    """Msgspec ``enc_hook``: an address, interface or prefix as text."""
    if isinstance(value, _CLASSES):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def decode_hook(kind: type, value: object) -> object:
    """Msgspec ``dec_hook``: text to the address class the record asks for.

    Raises:
        ValueError: the text is no address; msgspec reports it as a validation error.
    """
    parser = _PARSERS.get(kind)
    if parser is None:
        raise NotImplementedError(f"cannot decode {kind!r}")
    if not isinstance(value, str):
        raise ValueError(f"expected an address as text, got {type(value).__name__}")
    return parser(value)


def socket_address(address: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What :mod:`socket` takes. It ignores the zone in an address's text (``fe80::1%eth0``), which names a link of the
    caller's namespace.

    Raises:
        OSError: there is no such link.
    """
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    if zone is None:
        return str(address), port
    index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return str(address).partition("%")[0], port, 0, index


def mac_for(address: IPv4Address) -> str:
    """The MAC of an endpoint: ``02:42`` and the four bytes of its IPv4 address (libnetwork notes, C.3)."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


def new_mac() -> str:
    """A MAC that no interface had before: locally administered, 40 random bits."""
    return bytes([0x06, *os.urandom(5)]).hex(":")
