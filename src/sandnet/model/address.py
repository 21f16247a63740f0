"""IP addresses in records: the standard library's classes, with hooks for msgspec.

msgspec refuses a union of two custom types, and a port may be bound to either family. So at run time
``Address``, ``Interface`` and ``Prefix`` are abstract classes with both standard classes registered,
and :func:`encode_hook` and :func:`decode_hook` convert them to text and back. For a type checker they are unions.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from abc import ABC
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

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

    # An Interface of the standard library is also an Address: the hooks check Interface first.
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
    """Convert an address, interface or prefix to text, as the ``enc_hook`` of msgspec."""
    if isinstance(value, _CLASSES):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def decode_hook(kind: type, value: object) -> object:
    """Convert text to the address class that the record requires, as the ``dec_hook`` of msgspec.

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
    """Convert an address and a port to the tuple that :mod:`socket` requires.

    The zone of an address (``fe80::1%eth0``) names a link in the caller's namespace. It is converted to the link's
    index, because :mod:`socket` ignores it in the text.

    Raises:
        OSError: there is no such link.
    """
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    if zone is None:
        return str(address), port
    index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return str(address).partition("%")[0], port, 0, index


def all_addresses(ipv4: T | None, ipv6: T | None, additional: tuple[T, ...]) -> tuple[T, ...]:
    """Return the primary addresses that are there, and then the additional ones."""
    primary = tuple(each for each in (ipv4, ipv6) if each is not None)
    return (*primary, *additional) if additional else primary


def mac_for(address: IPv4Address) -> str:
    """Return the MAC of an endpoint: ``02:42`` and the four bytes of its IPv4 address (libnetwork notes, C.3)."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)


def new_mac() -> str:
    """Return a new MAC: locally administered, with 40 random bits."""
    return bytes([0x06, *os.urandom(5)]).hex(":")
