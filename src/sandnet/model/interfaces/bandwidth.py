"""Limits of the traffic of an endpoint's interfaces, in each direction, as container runtimes state them (CNI)."""

from __future__ import annotations

from typing import Final

import msgspec

from sandnet.errors import invalid

LEAST_RATE: Final = 8_000
"""Bits per second: one full frame takes a second and a half."""
MOST_RATE: Final = 1_000_000_000_000
"""Bits per second."""
MOST_BURST: Final = 1 << 33
"""Bits: a GiB."""
FIELDS: Final = ("ingress_rate", "ingress_burst", "egress_rate", "egress_burst")


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rates in bits per second, and bursts in bits, both of layer 2: each frame counts with its Ethernet header.

    The directions are those of the sandbox: ingress is what it receives.
    """

    ingress_rate: int = 0
    """0: no limit."""
    ingress_burst: int = 0
    """What may pass at once after a pause; 0: what passes in 25 ms, and at least two full frames."""
    egress_rate: int = 0
    egress_burst: int = 0


def check_bandwidth(requested: Bandwidth, field: str) -> Bandwidth | None:
    """Return the limits; ``None``: there are none.

    Raises:
        Error: ``INVALID``: a number is out of range, or a burst has no rate.
    """
    for direction in ("ingress", "egress"):
        rate, burst = getattr(requested, f"{direction}_rate"), getattr(requested, f"{direction}_burst")
        if rate and not LEAST_RATE <= rate <= MOST_RATE:
            message = f"{field}: {direction}_rate: {rate} is out of range"
            raise invalid(message, f"give {LEAST_RATE} to {MOST_RATE} bits per second, or 0 for no limit")
        if not 0 <= burst <= MOST_BURST:
            raise invalid(f"{field}: {direction}_burst: {burst} is out of range", f"give at most {MOST_BURST} bits")
        if burst and not rate:
            raise invalid(f"{field}: {direction}_burst has no {direction}_rate", "give the rate, too")
    return requested if requested != Bandwidth() else None
