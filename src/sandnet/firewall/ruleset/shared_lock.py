"""Who may change the firewall: many at a time, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SharedLock:
    """Changes go on side by side; whoever rewrites all waits for them and keeps new ones waiting.

    What a change has done is in the records or in memory when its turn ends, so the one that is alone sees
    everything that must be there.
    """

    def __init__(self) -> None:
        self._entrance = asyncio.Lock()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Beside others."""
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
        """Without others."""
        async with self._entrance:
            await self._idle.wait()
            yield
