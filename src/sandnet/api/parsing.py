"""Parsers for addresses, ports and paths in requests; every error names the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeVar

from sandnet.errors import Error, invalid
from sandnet.ipam.special_prefixes import unfit
from sandnet.model.address import Address
from sandnet.model.interfaces.dhcp_lease import DHCP
from sandnet.model.interfaces.interface_options import MAX_ROUTES, RESERVED_NAMES, static_route
from sandnet.model.link_names import LINK_NAME, MACVLAN_MODES
from sandnet.model.ports import PROTOCOLS, ExposedPort
from sandnet.model.resolv_conf import check_options, check_search
from sandnet.model.supplied_link import StaticRoute

T = TypeVar("T")
HostAddress = TypeVar("HostAddress", IPv4Address, IPv6Address)

MAX_LABELS: Final = 256
"""Limit of an object's labels: every verbose response contains them."""
MAX_LABEL_BYTES: Final = 64 << 10
"""Limit of all names and values of an object's labels, as UTF-8."""
_CIDR: Final = re.compile(r"[0-9A-Fa-f.:]+/(0|[1-9][0-9]{0,2})")
"""Python also accepts netmasks, scopes and leading zeros; the API accepts only a prefix length."""
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_JSON_TYPES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_OWN_IPAM: Final = ("default", "host-local")
"""What Docker and Podman call the allocation of addresses by themselves."""
_MAX_PORTS: Final = 100
_MAX_RESERVED: Final = 256
_LONGEST_NAME: Final = 255
"""Characters of the name of a reserved address."""
_PATH_MAX: Final = 4095
"""Limit in bytes, without the NUL (``PATH_MAX`` of limits.h)."""


def wrong_type(field: str, expected: str, value: object) -> Error:
    """Return the error for a value of the wrong type."""
    return invalid(f"{field}: expected {expected}, got {_JSON_TYPES.get(type(value), 'null')}", code="invalid_type")


def text(value: object, field: str) -> str:
    """Return the value if it is a string.

    Raises:
        Error: kind ``INVALID``, as from every parser here.
    """
    if not isinstance(value, str):
        raise wrong_type(field, "a string", value)
    return value


def address(value: object, field: str) -> Address:
    """Parse an IPv4 or IPv6 address without a scope."""
    return _read(ip_address, _unscoped(value, field), field, "an IP address")


def ipv4(value: object, field: str) -> IPv4Address:
    """Parse an IPv4 address."""
    return _read(IPv4Address, text(value, field), field, "an IPv4 address")


def ipv6(value: object, field: str) -> IPv6Address:
    """Parse an IPv6 address without a scope."""
    return _read(IPv6Address, _unscoped(value, field), field, "an IPv6 address")


def host_address(value: object, field: str) -> Address:
    """Parse an address that one host can have: neither unspecified nor multicast."""
    found = address(value, field)
    if found.is_unspecified or found.is_multicast:
        raise invalid(f"{field}: {found} is no host's address")
    return found


def ipv4_of_host(value: object, field: str) -> IPv4Address:
    """Parse an IPv4 address that one host can have and that other machines can answer to."""
    return _answerable(ipv4(value, field), field)


def ipv6_of_host(value: object, field: str) -> IPv6Address:
    """Parse an IPv6 address that one host can have and that other machines can answer to."""
    return _answerable(ipv6(value, field), field)


def binding_address(value: object, field: str) -> Address:
    """Parse an address that a host port can be bound to; the unspecified address means all addresses of its family."""
    found = address(value, field)
    if found.is_multicast:
        raise invalid(f"{field}: nothing can be bound to the multicast address {found}")
    return found


def ipv4_interface(value: object, field: str) -> IPv4Interface:
    """Parse an IPv4 address with its prefix length; the host part is kept."""
    return _interface(value, field, "192.0.2.1/24")


def ipv4_network(value: object, field: str) -> IPv4Network:
    """Parse an IPv4 network; host bits are refused, and the hint is the network that was probably meant."""
    found = _interface(value, field, "192.0.2.0/24")
    if found.ip != found.network.network_address:
        raise _host_bits(field, found, found.network)
    return found.network


def ipv4_masked(value: object, field: str) -> IPv4Network:
    """Parse an IPv4 network and clear its host bits, as Go's ``net.ParseCIDR`` does."""
    return _interface(value, field, "192.0.2.0/24").network


def ipv6_network(value: object, field: str) -> IPv6Network:
    """Parse an IPv6 network; host bits are refused, and the hint is the network that was probably meant."""
    found = ipv6_masked(value, field)
    given = str(value)
    if IPv6Address(given.partition("/")[0]) != found.network_address:
        raise _host_bits(field, given, found)
    return found


def ipv6_masked(value: object, field: str) -> IPv6Network:
    """Parse an IPv6 network and clear its host bits, as Go's ``net.ParseCIDR`` does."""
    given = _cidr(value, field, "2001:db8::/64")
    return _read(lambda cidr: IPv6Network(cidr, strict=False), given, field, "an IPv6 network")


def mac(value: object, field: str) -> str:
    """Return a unicast MAC address in lower case (IEEE 802: the lowest bit of the first byte is clear)."""
    given = text(value, field)
    if not _MAC.fullmatch(given) or int(given[:2], 16) & 1 or given == "00:00:00:00:00:00":
        raise invalid(f"{field}: {given!r} is no unicast MAC address", "write it like 02:42:c0:00:02:01")
    return given.lower()


def protocol(value: int | str | None, field: str) -> int:
    """Return an IP protocol number, given as a number or as ``tcp``, ``udp``, ``sctp``."""
    number = PROTOCOLS.get(value) if isinstance(value, str) else value
    if number is None:
        given = "is missing" if value is None else f"is unknown: {value!r}"
        raise invalid(f"{field} {given}", "use a protocol number (6, 17, 132) or tcp, udp, sctp")
    return number


def host_access(value: object, field: str) -> bool | tuple[ExposedPort, ...]:
    """Parse true (all), false (nothing), or a list of ports like ``53/udp``; ports without a protocol are TCP."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list):
        raise wrong_type(field, "true, false or an array of ports", value)
    if len(value) > _MAX_PORTS:
        raise invalid(f"{field}: more than {_MAX_PORTS} ports")
    return tuple(dict.fromkeys(_port(each, f"{field}[{index}]") for index, each in enumerate(value)))


def reserved_addresses(value: object, field: str) -> dict[str, Address]:
    """Parse an object of addresses by name."""
    if not isinstance(value, dict):
        raise wrong_type(field, "an object of addresses by name", value)
    if len(value) > _MAX_RESERVED or any(len(name) > _LONGEST_NAME for name in value):
        raise invalid(f"{field}: more than {_MAX_RESERVED} addresses, or a name of over {_LONGEST_NAME} characters")
    return {name: host_address(each, f"{field}.{name}") for name, each in value.items()}


def dns_search(value: object, field: str) -> tuple[str, ...]:
    """Parse the search domains of a resolv.conf: an array of names, or one name."""
    return check_search(_texts(value, field), field)


def dns_options(value: object, field: str) -> tuple[str, ...]:
    """Parse the options of a resolv.conf: an array of them, or one."""
    return check_options(_texts(value, field), field)


def _texts(value: object, field: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_type(field, "an array of strings", value)
    return [text(each, f"{field}[{index}]") for index, each in enumerate(value)]


def _port(value: object, field: str) -> ExposedPort:
    given = str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value, field)
    number, _, proto = given.partition("/")
    if not (number.isascii() and number.isdecimal() and len(number) <= 5 and 1 <= int(number) <= 65535):
        raise invalid(f"{field}: {given!r} is no port", "write it like 53/udp, from 1 to 65535")
    return ExposedPort(proto=protocol(proto or "tcp", field), port=int(number))


def routes(value: object, field: str) -> tuple[StaticRoute, ...]:
    """Return static routes: objects with ``destination`` and perhaps ``gateway``, or ``CIDR[=GATEWAY],…``."""
    if isinstance(value, str):
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        value = [{"destination": to, "gateway": gateway or None} for to, _, gateway in pairs]
    if not isinstance(value, list):
        raise wrong_type(field, "an array of routes", value)
    if len(value) > MAX_ROUTES:
        raise invalid(f"{field}: {len(value)} are too many", f"give at most {MAX_ROUTES}")
    found = [_route(each, f"{field}[{i}]") for i, each in enumerate(value)]
    if len({route.destination for route in found}) < len(found):
        raise invalid(f"{field}: a destination is given twice", code="contradiction")
    return tuple(found)


def _route(value: object, field: str) -> StaticRoute:
    if not isinstance(value, dict) or value.keys() - {"destination", "gateway"}:
        raise invalid(f"{field}: expected destination and gateway", code="invalid_type")
    given, hop = value.get("destination"), value.get("gateway")
    destination = ip_network(_cidr(given, f"{field}.destination", "10.0.0.0/8"), strict=False)
    return static_route(destination, host_address(hop, f"{field}.gateway") if hop else None, field)


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of an object, unless there are too many."""
    if len(given) > MAX_LABELS:
        raise invalid(f"labels: {len(given)} are too many", f"give at most {MAX_LABELS}")
    size = sum(len(text.encode(errors="replace")) for text in (*given, *given.values()))
    if size > MAX_LABEL_BYTES:
        raise invalid(f"labels: {size} bytes are too many", f"give at most {MAX_LABEL_BYTES} bytes of names and values")
    return dict(given)


def link_name(value: object, field: str) -> str:
    """Return the name of a link of the host."""
    name = text(value, field)
    if not LINK_NAME.fullmatch(name):
        hint = "use 1 to 15 of A-Z a-z 0-9 _ . -, the first a letter, digit or _"
        raise invalid(f"{field}: {name[:40]!r} cannot name a link", hint, "invalid_name")
    return name


def macvlan_mode(value: object, field: str) -> str:
    """Return a mode of macvlan interfaces."""
    mode = text(value, field)
    if mode not in MACVLAN_MODES:
        raise invalid(f"{field}: {mode[:40]!r} is not supported", f"use {', '.join(MACVLAN_MODES)}")
    return mode


def ipam_driver(value: object, field: str) -> str | None:
    """Return what gives the addresses; ``None``: the daemon."""
    given = text(value, field)
    if given not in (DHCP, *_OWN_IPAM):
        raise invalid(f"{field}: {given[:40]!r} is not supported", f"use {DHCP}, or leave it out")
    return given if given == DHCP else None


def interface_name(name: str) -> str:
    """Return the name of an interface inside; empty: any."""
    if name and (not LINK_NAME.fullmatch(name) or name in RESERVED_NAMES):
        hint = "use 1 to 15 of A-Z a-z 0-9 _ . -, the first a letter, digit or _; not lo, all or default"
        raise invalid(f"interface: {name[:40]!r} cannot name a link", hint, "invalid_name")
    return name


def path(value: object, field: str) -> str:
    """Parse an absolute path of a file: no ``.``, ``..`` or empty parts, no control characters."""
    given = text(value, field)
    parts = given.split("/")
    plain = given.startswith("/") and not any(part in ("", ".", "..") for part in parts[1:])
    if not plain or not given.isprintable() or len(given.encode(errors="replace")) > _PATH_MAX:
        raise invalid(f"{field}: {given!r} is no plain absolute path", "write it without . or .. parts")
    return given


def _read(parse: Callable[[str], T], given: str, field: str, expected: str) -> T:
    try:
        return parse(given)
    except ValueError:
        raise invalid(f"{field}: {given!r} is not {expected}") from None


def _answerable(found: HostAddress, field: str) -> HostAddress:
    if found.is_unspecified or found.is_multicast or found.is_loopback or found.is_link_local:
        raise invalid(f"{field}: other machines cannot answer to {found}")
    return found


def _unscoped(value: object, field: str) -> str:
    given = text(value, field)
    if "%" in given:
        raise invalid(f"{field}: {given!r} carries a scope", "leave out the % and what follows")
    return given


def _interface(value: object, field: str, example: str) -> IPv4Interface:
    return _read(IPv4Interface, _cidr(value, field, example), field, "an IPv4 address with its prefix length")


def _cidr(value: object, field: str, example: str) -> str:
    given = text(value, field)
    if not _CIDR.fullmatch(given):
        raise invalid(f"{field}: {given!r} is not in CIDR form", f"write it like {example}")
    return given


def _host_bits(field: str, given: object, network: IPv4Network | IPv6Network) -> Error:
    hint = "" if unfit(network) else f"did you mean {network}?"
    return invalid(f"{field}: {given} has host bits set", hint)


NOT_JSON: Final = "sandnet.not_json"
"""Key in the ASGI scope: true if the content type must be JSON and is not.

The request is refused only after it was routed, so a wrong path or method is reported first.
"""
