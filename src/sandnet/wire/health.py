"""The answer of ``GET /healthz``; not part of the reference."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


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


class DriverHealth(Struct, kw_only=True):
    """The availability of a driver on this host."""

    name: str
    available: bool
    reason: str
    """Why it is unavailable, or which features its networks lack here; empty: nothing is wrong."""


class Health(Struct, kw_only=True):
    """Answer of ``GET /healthz``."""

    status: str
    """``ok`` or ``degraded``."""
    problems: list[str]
    drivers: list[DriverHealth]
    operations: int | UnsetType = UNSET
    """Number of changes in progress, those of disconnected clients included."""
    prepared_sandboxes: PreparedSandboxes | UnsetType = UNSET
    """Only in a verbose answer; absent where the pool is off."""
