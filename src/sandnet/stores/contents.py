"""What a store holds, in memory: what is read is read from here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandnet.stores.base import Changed, Entry, Snapshot


class Contents:
    """Entries by key, as of one revision.

    Args:
        entries: all there are.
        revision: the last commit's.
    """

    def __init__(self, entries: Iterable[Entry] = (), revision: int = 0) -> None:
        self._entries = {entry.key: entry for entry in entries}
        self.revision = revision

    def get(self, key: str) -> Entry | None:
        """The entry at ``key``, or ``None``."""
        return self._entries.get(key)

    def revision_of(self, key: str) -> int:
        """The commit that wrote ``key``; 0: it is absent."""
        entry = self._entries.get(key)
        return entry.revision if entry else 0

    def list(self, prefix: str) -> Sequence[Entry]:
        """All entries whose key starts with ``prefix``, in key order."""
        return [self._entries[key] for key in sorted(key for key in self._entries if key.startswith(prefix))]

    def snapshot(self, prefix: str) -> Snapshot:
        """The same, with the revision."""
        return Snapshot(tuple(self.list(prefix)), self.revision)

    def apply(self, changed: Changed) -> None:
        """Bring it forward by one commit."""
        self._entries.update((entry.key, entry) for entry in changed.puts)
        for key in changed.deletes:
            self._entries.pop(key, None)
        self.revision = changed.revision

    def after(self, commits: Iterable[Changed]) -> Contents:
        """Another one, as it will be after these."""
        ahead = Contents(self._entries.values(), self.revision)
        for changed in commits:
            ahead.apply(changed)
        return ahead
