"""Ports as users write them: ``8080:80``, ``127.0.0.1:5300-5310:53/udp``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sandnet.wire.libnetwork import PortMapping

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""IP protocol numbers (IANA) of the protocols that have ports."""
_NAMES = {number: name for name, number in PROTOCOLS.items()}

_MAPPING = re.compile(
    r"(?!:)(?:(?:(?P<ip>\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?(?:(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?)?:)?"
    r"(?P<port>[0-9]{1,5})(?:-(?P<end>[0-9]{1,5}))?"
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

    @property
    def request(self) -> PortMapping:
        """The port in a request; absent values are left out."""
        from sandnet.wire.libnetwork import PortMapping

        return PortMapping(**{name: value for name, value in self._asdict().items() if value})

    def __str__(self) -> str:
        """Return the text that ``-p`` accepts."""
        ip = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        end = f"-{self.host_port_end}" if self.host_port_end else ""
        last = f"-{self.port_end}" if self.port_end else ""
        return f"{ip}{self.host_port}{end}:{self.port}{last}/{protocol(self.proto)}"


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
    port = container_port(match["port"], text)
    end = _range_end(match["end"], port, first, last, text)
    return PortArgument(proto, port, host_ip, first, last, end)


def _range_end(digits: str | None, port: int, first: int, last: int, text: str) -> int:
    """Return the last port of a container's range; 0: there is no range."""
    if digits is None:
        return 0
    end = container_port(digits, text)
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
    return proto, container_port(port, text)


def _split_protocol(text: str) -> tuple[str, int]:
    ports, slash, name = text.partition("/")
    number = PROTOCOLS.get(name if slash else "tcp")
    if number is None:
        raise ValueError(f"{text!r}: the protocol is tcp, udp or sctp")
    return ports, number


def container_port(digits: str, text: str) -> int:
    """Return the number of a port of a container.

    Raises:
        ValueError: with the whole text that contains it.
    """
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r}: a container port is a number from 1 to 65535")
    return int(digits)


def _address(text: str) -> str:
    if not text:
        return ""
    from ipaddress import ip_address

    return str(ip_address(text))
