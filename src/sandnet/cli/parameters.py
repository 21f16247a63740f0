"""Parsers of option and argument values: ports, labels, ``SERVICE[.NETWORK]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import click

from sandnet.errors import invalid

T = TypeVar("T")

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""IP protocol numbers (IANA) of the protocols that have ports."""
_NAMES = {number: name for name, number in PROTOCOLS.items()}

_MAPPING = re.compile(
    r"(?!:)(?:(?:(?P<ip>\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?(?:(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?)?:)?"
    r"(?P<port>[0-9]{1,5})(?:-(?P<end>[0-9]{1,5}))?"
)

_PROBE = re.compile(
    r"(?P<kind>tcp|http):(?P<port>[0-9]{1,5})(?P<path>/[!-~]*?)?(?:@(?P<interval>[0-9]{1,4}(\.[0-9]+)?))?"
)


class PortArgument(NamedTuple):
    """A port of the container published on the host."""

    proto: int
    port: int
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0
    port_end: int = 0
    """Last port of a range of the container's ports, each at a host port of its own; 0: one port."""

    def __str__(self) -> str:
        """Return the text that ``-p`` accepts."""
        ip = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        end = f"-{self.host_port_end}" if self.host_port_end else ""
        last = f"-{self.port_end}" if self.port_end else ""
        return f"{ip}{self.host_port}{end}:{self.port}{last}/{protocol(self.proto)}"


class ProbeArgument(NamedTuple):
    """The health check of backends."""

    kind: str
    port: int
    path: str = "/"
    interval: float = 2.0
    """Seconds between probes; one probe may take half of it, at most one second."""


class Reference(NamedTuple):
    """A reference ``SERVICE[.NETWORK]``; without a network it is empty."""

    name: str
    network: str = ""


def protocol(number: int) -> str:
    """Return the protocol's name, or its number if it has no ports."""
    return _NAMES.get(number, str(number))


def parse_mapping(text: str) -> PortArgument:
    """Parse ``[[HOSTIP:][HOST[-END]]:]CONTAINER[-END][/proto]``; without HOST, or with 0, the daemon chooses one.

    A range of host ports for one port means the first free one of them. For a range of ports of the same length, each
    port has the host port at its position.

    Raises:
        ValueError: with the reason.
    """
    ports, proto = _split_protocol(text)
    match = _MAPPING.fullmatch(ports)
    if match is None:
        raise ValueError(f"{text!r} is not of the form [HOSTIP:][HOST[-END]]:CONTAINER[-END][/tcp|udp|sctp]")
    first, last = int(match["first"] or 0), int(match["last"] or 0)
    if match["last"] and not 0 < first <= last:
        raise ValueError(f"{text!r}: the range of host ports is empty or begins with 0")
    if max(first, last) > 65535:
        raise ValueError(f"{text!r}: a host port is at most 65535")
    host_ip = _address((match["ip"] or "").strip("[]"))
    port = _container_port(match["port"], text)
    end = _range_end(match["end"], port, first, last, text)
    return PortArgument(proto, port, host_ip, first, last, end)


def _range_end(digits: str | None, port: int, first: int, last: int, text: str) -> int:
    """Return the last port of a container's range; 0: there is no range."""
    if digits is None:
        return 0
    end = _container_port(digits, text)
    if end < port:
        raise ValueError(f"{text!r}: the range of container ports is empty")
    count, hosts = end - port + 1, (last or first) - first + 1
    if first and hosts != count:
        suggestion = f"{first}-{first + count - 1}:{port}-{end}"
        raise ValueError(f"{text!r}: {hosts} host ports cannot lead to {count} ports; did you mean {suggestion}?")
    return end


def parse_exposed(text: str) -> tuple[int, int]:
    """Parse ``PORT[/proto]`` into protocol number and port.

    Raises:
        ValueError: with the reason.
    """
    port, proto = _split_protocol(text)
    return proto, _container_port(port, text)


def parse_probe(text: str) -> ProbeArgument:
    """Parse ``tcp:PORT[@SECONDS]`` or ``http:PORT[/PATH][@SECONDS]``.

    Raises:
        ValueError: with the reason.
    """
    match = _PROBE.fullmatch(text)
    if match is None or (match["kind"] == "tcp" and match["path"]):
        raise ValueError(f"{text!r} is not of the form tcp:PORT[@SECONDS] or http:PORT[/PATH][@SECONDS]")
    port = _container_port(match["port"], text)
    return ProbeArgument(match["kind"], port, match["path"] or "/", float(match["interval"] or 2))


def parse_reference(text: str) -> Reference:
    """Parse ``SERVICE[.NETWORK]``; the last dot separates.

    Raises:
        ValueError: with the reason.
    """
    name, dot, network = text.rpartition(".")
    if not dot:
        name, network = network, ""
    if not name or (dot and not network):
        raise ValueError(f"{text!r} is not of the form NAME[.NETWORK]")
    return Reference(name, network)


def reference_or_error(text: str) -> Reference:
    """Parse a reference like :func:`parse_reference`, for one of several arguments: its error must not stop the others.

    Raises:
        Error: ``INVALID``, with the reason.
    """
    try:
        return parse_reference(text)
    except ValueError as error:
        raise invalid(str(error)) from error


def parse_pair(text: str, separator: str = "=") -> tuple[str, str]:
    """Parse ``KEY=VALUE``; the first separator counts, and neither key nor separator may be missing.

    Raises:
        ValueError: with the reason.
    """
    key, found, value = text.partition(separator)
    if not found or not key:
        raise ValueError(f"{text!r} is not of the form KEY{separator}VALUE")
    return key, value


def scalar(text: str) -> object:
    """Return an option's value for the request: decoded if it is JSON (``true``, ``1400``), else the text."""
    import json

    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _split_protocol(text: str) -> tuple[str, int]:
    ports, slash, name = text.partition("/")
    number = PROTOCOLS.get(name if slash else "tcp")
    if number is None:
        raise ValueError(f"{text!r}: the protocol is tcp, udp or sctp")
    return ports, number


def _container_port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r}: a container port is a number from 1 to 65535")
    return int(digits)


def _address(text: str) -> str:
    if not text:
        return ""
    from ipaddress import ip_address

    return str(ip_address(text))


def _option(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return a ``type=`` for click: an invalid value is a usage error with its reason."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


MAPPING = _option(parse_mapping)
EXPOSED = _option(parse_exposed)
PROBE = _option(parse_probe)
REFERENCE = _option(parse_reference)
PAIR = _option(parse_pair)
HOST_ENTRY = _option(lambda text: parse_pair(text, ":"))
