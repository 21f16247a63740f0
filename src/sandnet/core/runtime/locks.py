"""Locks, apart from the records they guard: records are reloaded, locks are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from sandnet.errors import Error, Kind

DEADLINE = 30.0
"""Seconds a request waits for those before it on the same object; nobody waits for ever."""


class Locks:
    """One lock a name, made when first asked for and gone with its last holder."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, *names: str, patience: float | None = None) -> AsyncIterator[None]:
        """Hold all of them; always taken in name order, so two holders cannot wait for each other.

        Args:
            names: of the locks.
            patience: seconds to wait, where that is less than a request would.

        Raises:
            Error: ``UNAVAILABLE`` when the deadline passes first.
        """
        deadline = self._deadline if patience is None else patience
        wanted = [self._locks.setdefault(name, asyncio.Lock()) for name in sorted(set(names))]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(deadline):
                    for lock in wanted:
                        await stack.enter_async_context(lock)
            except TimeoutError:
                raise Error(
                    Kind.UNAVAILABLE,
                    f"{', '.join(sorted(names))} has been busy for {deadline:.0f} s",
                    "repeat the request later",
                    "busy",
                ) from None
            yield
