"""A lock for changes of the firewall: shared by many changes, or exclusive to one rewrite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SharedLock:
    """A readers-writer lock: changes share it; a rewrite waits for running ones and keeps new ones waiting.

    What a change has done is in the records or in memory when it releases the lock. So the exclusive holder sees
    everything that must be there.
    """

    def __init__(self) -> None:
        self._entrance = asyncio.Lock()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the lock together with other changes."""
        async with self._entrance:
            self._running += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock alone."""
        async with self._entrance:
            await self._idle.wait()
            yield
