"""A store in memory, lost when the process exits: the verified test double of the others, and ``--store memory:``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from sandnet.stores.base import Change, Changed, Conflict, Entry, Put, Repaired, Snapshot, check_keys
from sandnet.stores.contents import Contents
from sandnet.stores.watchers import BACKLOG, Watchers, closed_error


class MemoryStore:
    """A ``Store`` in memory, for use in one event loop. None of its methods waits.

    Args:
        backlog: commits that a watcher may lag behind before it gets a new ``Snapshot``.
    """

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._contents = Contents()
        self._closed = False
        self._watchers = Watchers(backlog)

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``."""
        self._check_open()
        return self._contents.get(key)

    async def list(self, prefix: str) -> Sequence[Entry]:
        """See ``Store.list``."""
        self._check_open()
        return self._contents.list(prefix)

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``; a commit is lost when the process exits."""
        self._check_open()
        check_keys(changes)
        for change in changes:
            if change.expect is not None and change.expect != self._contents.revision_of(change.key):
                raise Conflict(change.key)
        revision = self._contents.revision + 1
        puts = tuple(Entry(change.key, change.value, revision) for change in changes if isinstance(change, Put))
        deletes = tuple(c.key for c in changes if not isinstance(c, Put) and self._contents.get(c.key))
        changed = Changed(puts, deletes, revision)
        self._contents.apply(changed)
        self._watchers.publish(changed)
        return revision

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``Store.watch``."""
        return self._watchers.watch(prefix, self._snapshot)

    def problems(self) -> Sequence[str]:
        """See ``Store.problems``: there are none."""
        return ()

    async def verify(self) -> Sequence[Repaired]:
        """See ``Store.verify``: no other process can change this store."""
        return ()

    async def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        self._watchers.close()

    async def _snapshot(self, prefix: str) -> Snapshot:
        self._check_open()
        return self._contents.snapshot(prefix)

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()
