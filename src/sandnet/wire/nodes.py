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
    release: str
    """Version of its daemon."""
    attachments: int
    """Containers on networks of all hosts; those of a host that is away do not count."""
    endpoints: int
    """Endpoints that it has created."""
