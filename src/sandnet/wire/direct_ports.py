"""Ports of endpoints on routed networks."""

from __future__ import annotations

from msgspec import Struct


class DirectPort(Struct, kw_only=True):
    """A published port that other hosts and networks reach at the endpoint's own address."""

    proto: int
    address: str
    port: int
