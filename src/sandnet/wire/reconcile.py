"""The messages of ``POST /reconcile``, which is not part of the reference."""

from __future__ import annotations

from msgspec import Struct


class Reconcile(Struct, kw_only=True):
    """Body of ``POST /reconcile``."""

    fix: bool = True
    """Whether to repair drift; false: only report it."""


class Drift(Struct, kw_only=True):
    """A difference between the desired state in the records and the actual state."""

    kind: str
    """``network``, ``backend``, ``sandbox``, ``file``, ``port``, ``rules``, ``parameter`` or ``stray``."""
    object: str
    """Affected object: a name, a path, or an id."""
    problem: str
    """Description of what is wrong."""
    reason: str
    """Reason why it matters."""
    done: str
    """``repaired``, or why it was not repaired; empty: no repair was tried."""


class Reconciliation(Struct, kw_only=True):
    """Answer of ``POST /reconcile``."""

    drift: list[Drift]
    """Differences; empty: the actual state is the desired one."""
