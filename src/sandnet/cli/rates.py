"""Options of commands for limits of traffic."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from sandnet.cli.parameters import option_type

if TYPE_CHECKING:
    from sandnet.wire.bandwidth import Bandwidth

F = TypeVar("F", bound=Callable[..., object])

_NUMBER: Final = re.compile(r"(?P<number>[0-9]{1,16}(\.[0-9]{1,9})?)(?P<unit>[kmgt]?)(bit)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
NONE: Final = "none"
RATES: Final = ("ingress_rate", "ingress_burst", "egress_rate", "egress_burst")


def parse_bits(text: str) -> int:
    """Parse a number of bits, or of bits per second: ``10mbit``, ``1.5g``, ``64000``; ``none`` is 0.

    Raises:
        ValueError: with the reason.
    """
    if text == NONE:
        return 0
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form NUMBER[k|m|g|t][bit], or {NONE}")
    return round(float(match["number"]) * _UNITS[match["unit"].lower()])


def bits_text(bits: int) -> str:
    """Return a number of bits in the largest unit in which it is whole."""
    unit = next((unit for unit in ("t", "g", "m", "k") if bits and bits % _UNITS[unit] == 0), "")
    return f"{bits // _UNITS[unit]}{unit}bit"


_BITS: Final = option_type(parse_bits)
_OPTIONS: Final = (
    click.option(
        "--ingress-rate", type=_BITS, metavar="RATE", help="Limit of what each container receives: 10mbit, 1gbit."
    ),
    click.option("--ingress-burst", type=_BITS, metavar="BITS", help="What it may receive at once after a pause."),
    click.option("--egress-rate", type=_BITS, metavar="RATE", help="Limit of what each container sends."),
    click.option("--egress-burst", type=_BITS, metavar="BITS", help="What it may send at once after a pause."),
)


def rate_options(command: F) -> F:
    """Add the options for limits of traffic."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def bandwidth(values: Mapping[str, Any]) -> Bandwidth | None:
    """Return the requested limits; ``None``: no option is given."""
    from sandnet.wire.bandwidth import Bandwidth

    given = {name: values.get(name) for name in RATES}
    if all(value is None for value in given.values()):
        return None
    return Bandwidth(**{name: value or 0 for name, value in given.items()})


def bandwidth_text(limits: Bandwidth) -> str:
    """Return limits as ``info`` prints them."""
    parts = [
        f"{direction} {bits_text(rate)}/s" + (f" burst {bits_text(burst)}" if burst else "")
        for direction, rate, burst in (
            ("ingress", limits.ingress_rate, limits.ingress_burst),
            ("egress", limits.egress_rate, limits.egress_burst),
        )
        if rate
    ]
    return ", ".join(parts)
