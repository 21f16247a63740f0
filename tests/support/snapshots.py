"""Snapshots of a store that others may write to."""

from __future__ import annotations

from sandnet.stores.base import Changed, Entry, Snapshot


def is_snapshot(found: Snapshot | Changed, least: int, *entries: Entry) -> bool:
    """Whether this is a snapshot of these entries, at a revision that the test knows or at a later one.

    The lease of an earlier test may end at any time, and takes a revision.
    """
    return isinstance(found, Snapshot) and found.entries == entries and found.revision >= least
