"""The contents of a store in memory, from which all reads are served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandnet.stores.base import Changed, Entry, Snapshot


class Contents:
    """The entries of a store at one revision.

    Args:
        entries: all entries.
        revision: revision of the last commit.
    """

    def __init__(self, entries: Iterable[Entry] = (), revision: int = 0) -> None:
        self._entries = {entry.key: entry for entry in entries}
        self.revision = revision

    def get(self, key: str) -> Entry | None:
        """Return the entry at ``key``; ``None``: there is none."""
        return self._entries.get(key)

    def revision_of(self, key: str) -> int:
        """Return the revision of the commit that wrote ``key``; 0: the key is absent."""
        entry = self._entries.get(key)
        return entry.revision if entry else 0

    def list(self, prefix: str) -> Sequence[Entry]:
        """Return all entries whose key starts with ``prefix``, in key order."""
        return [self._entries[key] for key in sorted(key for key in self._entries if key.startswith(prefix))]

    def snapshot(self, prefix: str) -> Snapshot:
        """Return all entries whose key starts with ``prefix``, with the revision."""
        return Snapshot(tuple(self.list(prefix)), self.revision)

    def apply(self, changed: Changed) -> None:
        """Apply one commit."""
        self._entries.update((entry.key, entry) for entry in changed.puts)
        for key in changed.deletes:
            self._entries.pop(key, None)
        self.revision = changed.revision

    def after(self, commits: Iterable[Changed]) -> Contents:
        """Return a copy with these commits applied."""
        later = Contents(self._entries.values(), self.revision)
        for changed in commits:
            later.apply(changed)
        return later
