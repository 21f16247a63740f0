"""The hosts that share networks, in the answers of ``GET /nodes``; not part of the reference."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Node(Struct, kw_only=True):
    """One host among those that share a store."""

    name: str
    this: bool
    """Whether it is the host that answers."""
    state: Literal["alive", "away"]
    """``away``: its lease has ended, so nothing of it counts."""
    underlay: str | None
    """Address at which its overlay networks are reached."""
    encryption: bool
    """Whether it can have encrypted networks."""
    release: str
    """Version of its daemon."""
    attachments: int
    """Containers on networks of all hosts; those of a host that is away do not count."""
    endpoints: int
    """Endpoints that it has created."""


class NodeReachability(Struct, kw_only=True):
    """How the host that answers reaches another one, in the answers of ``GET /reachability``."""

    name: str
    state: Literal["alive", "away"]
    underlay: str | None
    reached: bool
    """Whether anything came back from its address."""
    vxlan: Literal["answered", "refused", "silent", "unknown"]
    """What became of probes to the VXLAN port. ``refused``: nothing there receives it; ``unknown``: none was possible.
    """
    round_trip_ms: float | None
    path_mtu: int | None
    """The largest packet that passed both ways, up to the MTU of this host's underlay; ``None``: none did."""
    needed_mtu: int
    """The size of the largest packets that overlay networks send; 0: there are no such networks."""
    clock_ahead_ms: float | None
    """By how much its clock is ahead of this host's; it may be wrong by half of the round trip."""
    problems: list[str]
    """What is wrong, each with a way out; empty: nothing."""
