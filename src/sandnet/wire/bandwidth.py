"""Limits of traffic, and the changes of endpoints that they can be part of."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Number = Annotated[int, Meta(ge=0, le=2**53)]


class Bandwidth(Struct, kw_only=True, omit_defaults=True):
    """Rates in bits per second and bursts in bits, of layer 2; 0: no limit, or the network's.

    Ingress is what the container receives.
    """

    ingress_rate: Number = 0
    ingress_burst: Number = 0
    """What may pass at once after a pause; 0: what passes in 25 ms."""
    egress_rate: Number = 0
    egress_burst: Number = 0


class EndpointChange(Struct, kw_only=True, omit_defaults=True):
    """Body of ``PATCH /services/{service}`` and ``PATCH /networks/{network}/endpoints/{endpoint}``."""

    bandwidth: Bandwidth | None = None
    """All limits of the endpoint."""
