"""Runs of consecutive ports that are the same inside and outside: one interval of a map translates all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandnet.kernel.nft_types import join_parts, port_number, protocol_number
from sandnet.model import BoundPort

SPAN: Final = 8
"""Consecutive ports from which on they are one element: the lookup of an interval costs a little more."""


def spans(ports: Sequence[BoundPort]) -> tuple[list[list[BoundPort]], list[BoundPort]]:
    """Return the runs of ports that are the same inside and outside, which one element translates, and all others."""
    runs: list[list[BoundPort]] = []
    for port in sorted(ports, key=lambda each: (each.proto, str(each.host_ip), each.host_port)):
        if runs and _continues(runs[-1][-1], port):
            runs[-1].append(port)
        else:
            runs.append([port])
    return [run for run in runs if len(run) >= SPAN], [port for run in runs if len(run) < SPAN for port in run]


def published_key(port: BoundPort) -> bytes:
    """Return the key of a published port: its host address if it has one, protocol and host port."""
    host = () if port.host_ip.is_unspecified else (port.host_ip.packed,)
    return join_parts(*host, protocol_number(port.proto), port_number(port.host_port))


def span_ends(first: BoundPort, last: BoundPort) -> tuple[bytes, bytes]:
    """Return both ends of the key of a run of ports."""
    return published_key(first), published_key(last)


def _continues(before: BoundPort, port: BoundPort) -> bool:
    same = (before.proto, before.host_ip) == (port.proto, port.host_ip) and port.port == port.host_port
    return same and before.port == before.host_port and port.host_port == before.host_port + 1
