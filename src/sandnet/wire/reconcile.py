"""The bodies of ``POST /reconcile``, which is not part of the reference."""

from __future__ import annotations

from msgspec import Struct


class Reconcile(Struct, kw_only=True):
    """Body of ``POST /reconcile``."""

    fix: bool = True
    """Repair what differs; false: only tell."""


class Drift(Struct, kw_only=True):
    """A difference between the records and what there is."""

    kind: str
    """``network``, ``backend``, ``sandbox``, ``file``, ``port``, ``rules``, ``parameter`` or ``stray``."""
    object: str
    """What it is about: a name, a path, or an id."""
    problem: str
    """What is wrong."""
    reason: str
    """Why it matters."""
    done: str
    """``repaired``, or why it was not; empty: nothing was tried."""


class Reconciliation(Struct, kw_only=True):
    """Answer of ``POST /reconcile``."""

    drift: list[Drift]
    """Empty: everything is as the records say."""
