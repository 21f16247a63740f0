"""Parsers of option and argument values: probes, labels, ``SERVICE[.NETWORK]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import click

from sandnet.errors import invalid
from sandnet.library.port_arguments import container_port, parse_exposed, parse_mapping

T = TypeVar("T")

_PROBE = re.compile(
    r"(?P<kind>tcp|http):(?P<port>[0-9]{1,5})(?P<path>/[!-~]*?)?(?:@(?P<interval>[0-9]{1,4}(\.[0-9]+)?))?"
)


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


def parse_probe(text: str) -> ProbeArgument:
    """Parse ``tcp:PORT[@SECONDS]`` or ``http:PORT[/PATH][@SECONDS]``.

    Raises:
        ValueError: with the reason.
    """
    match = _PROBE.fullmatch(text)
    if match is None or (match["kind"] == "tcp" and match["path"]):
        raise ValueError(f"{text!r} is not of the form tcp:PORT[@SECONDS] or http:PORT[/PATH][@SECONDS]")
    port = container_port(match["port"], text)
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


def option_type(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return a ``type=`` for click: an invalid value is a usage error with its reason."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return convert


MAPPING = option_type(parse_mapping)
EXPOSED = option_type(parse_exposed)
PROBE = option_type(parse_probe)
REFERENCE = option_type(parse_reference)
PAIR = option_type(parse_pair)
HOST_ENTRY = option_type(lambda text: parse_pair(text, ":"))
