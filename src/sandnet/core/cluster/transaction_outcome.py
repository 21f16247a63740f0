"""What an answer of the shared store shows of a transaction: which conditions held, and whether it was applied."""

from __future__ import annotations

from collections.abc import Sequence

from sandnet.stores.base import Change, Put, Snapshot
from sandnet.stores.shared import Absent, Condition, ConditionFailed, HasValue, Present, UnchangedRange


def holds(condition: Condition, refused: ConditionFailed) -> bool:
    """Return whether a condition held, as far as the refusal shows."""
    found = refused.at(condition[0])
    match condition:
        case Present():
            return found is not None and condition.revision in (None, found.revision)
        case Absent():
            return found is None
        case HasValue():
            return found is not None and found.value == condition.value
        case UnchangedRange(prefix, revision):
            return not any(entry.key.startswith(prefix) and entry.revision > revision for entry in refused.found)
        case _:
            return not any(entry.key.startswith(condition[0]) for entry in refused.found)


def applied_at(changes: Sequence[Change], found: Snapshot) -> int:
    """Return the revision of a transaction that can no longer be applied; 0: it was not."""
    entries = {entry.key: entry for entry in found.entries}
    for change in changes:
        if isinstance(change, Put):
            entry = entries.get(change.key)
            return entry.revision if entry and entry.value == change.value else 0
    return 0 if any(change.key in entries for change in changes) else found.revision
