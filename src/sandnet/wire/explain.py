"""What ``GET /dns/explain`` answers. Not part of the reference."""

from __future__ import annotations

from msgspec import Struct


class Explanation(Struct, kw_only=True):
    """Answer of ``GET /dns/explain``."""

    name: str
    asker: str
    """The container's id."""
    answers: list[str]
    """Addresses. For a question about an address ``reason`` has the name."""
    source: str
    """``alias``, ``network``, ``reverse``, ``localhost``, ``upstream`` or ``none``."""
    network: str
    """Id of the network whose records answer; empty: none."""
    owners: list[str]
    """Who bears the name there: an endpoint's id, or a container's and an endpoint's with a slash between."""
    upstreams: list[str]
    """Servers of the container's own that would be asked, in order; empty with source ``upstream``: the host's."""
    reason: str
    """In words."""
    inside: list[str] = []
    """Those of ``upstreams`` that would be asked from inside the container: its own networks hold them."""
