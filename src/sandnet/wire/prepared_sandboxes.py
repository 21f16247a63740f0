"""The state of the pool of prepared sandboxes, in the answer of ``GET /healthz``; not part of the reference."""

from __future__ import annotations

from msgspec import Struct


class PreparedSandboxes(Struct, kw_only=True):
    """The pool of sandboxes that are prepared ahead of joins; counts are since the daemon's start."""

    ready: int
    target: int
    """How many the pool is to hold at present."""
    limit: int
    handed_out: int
    misses: int
    """Joins that found the pool empty."""
    discarded: int
    """Those closed unused: too many without demand, or changed by another program."""
    failures: int
    """Failed attempts to prepare one."""
    restarts: int
    """How often the process that prepares them was started again."""
    problem: str
    """Why none is prepared at present; empty: no reason."""
