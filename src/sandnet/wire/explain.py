"""The messages of ``GET /dns/explain``, which is not part of the reference."""

from __future__ import annotations

from msgspec import Struct


class Explanation(Struct, kw_only=True):
    """Answer of ``GET /dns/explain``."""

    name: str
    asker: str
    """The container's id."""
    answers: list[str]
    """Addresses. For a question about an address, ``reason`` contains the name."""
    source: str
    """``alias``, ``network``, ``reverse``, ``localhost``, ``upstream`` or ``none``."""
    network: str
    """Id of the network whose records answer; empty: none."""
    owners: list[str]
    """Owners of the name there: an endpoint's id, or a container's and an endpoint's, separated by a slash."""
    upstreams: list[str]
    """The servers that would be asked, in order: the container's own ones, or else the host's."""
    reason: str
    """Explanation for people."""
    inside: list[str] = []
    """The servers of ``upstreams`` in the container's own networks, which would be asked from inside the container."""
