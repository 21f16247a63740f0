"""Watches inside one process: every commit is delivered to the watchers of the prefixes that it changes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Snapshot

BACKLOG = 1024
"""Commits that a watcher may lag behind before it gets a new ``Snapshot`` instead."""


def closed_error() -> Error:
    """Return the error of a store that was closed, or is not open yet."""
    return Error(Kind.UNAVAILABLE, "the store is closed", "start the daemon and repeat the request", "store_closed")


class _Watcher:
    def __init__(self, prefix: str, backlog: int) -> None:
        self.prefix = prefix
        self.waiting: deque[Changed] = deque()
        self.lost = True  # a new watcher begins with a snapshot, like one that missed commits
        self.changed = asyncio.Event()
        self._backlog = backlog

    def offer(self, changed: Changed) -> None:
        puts = tuple(entry for entry in changed.puts if entry.key.startswith(self.prefix))
        deletes = tuple(key for key in changed.deletes if key.startswith(self.prefix))
        if not puts and not deletes:
            return
        if len(self.waiting) >= self._backlog:
            self.lose()
        self.waiting.append(Changed(puts, deletes, changed.revision))
        self.changed.set()

    def lose(self) -> None:
        self.waiting.clear()
        self.lost = True
        self.changed.set()


class Watchers:
    """The watches of one store. All methods belong to the event loop's thread."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._watchers: set[_Watcher] = set()
        self._closed = False

    def publish(self, changed: Changed) -> None:
        """Deliver a commit, which was written before, to its watchers. Revisions must be in ascending order."""
        for watcher in self._watchers:
            watcher.offer(changed)

    def lose(self) -> None:
        """Discard the pending commits: every watch goes on with a new ``Snapshot``."""
        for watcher in self._watchers:
            watcher.lose()

    def close(self) -> None:
        """End every watch after its pending commits are delivered."""
        self._closed = True
        for watcher in self._watchers:
            watcher.changed.set()

    async def watch(
        self, prefix: str, snapshot: Callable[[str], Awaitable[Snapshot]]
    ) -> AsyncGenerator[Snapshot | Changed, None]:
        """Yield a snapshot, then each later commit below ``prefix`` exactly once.

        Raises:
            Error: kind ``UNAVAILABLE`` when the store is closed.
        """
        watcher = _Watcher(prefix, self._backlog)
        self._watchers.add(watcher)  # before the snapshot, so that no commit in between is missed
        seen = 0
        try:
            while True:
                if watcher.lost:
                    watcher.lost = False
                    taken = await snapshot(prefix)
                    seen = taken.revision
                    yield taken
                while watcher.waiting and not watcher.lost:
                    changed = watcher.waiting.popleft()
                    if changed.revision > seen:
                        yield changed
                await self._until_change(watcher)
        finally:
            self._watchers.discard(watcher)

    async def _until_change(self, watcher: _Watcher) -> None:
        if watcher.waiting or watcher.lost:
            return
        if self._closed:
            raise closed_error()
        watcher.changed.clear()
        await watcher.changed.wait()
