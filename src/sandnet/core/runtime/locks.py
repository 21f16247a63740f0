"""Locks by name. They are apart from the records they guard: records are reloaded, locks are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from sandnet.errors import Error, Kind

DEADLINE = 30.0
"""The longest time, in seconds, that a request waits for earlier ones on the same object."""


class Locks:
    """One lock per name, created at first use and dropped with its last holder."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, *names: str, max_wait: float | None = None) -> AsyncIterator[None]:
        """Hold all locks with these names. They are always taken in name order, so two holders cannot wait for each
        other.

        Args:
            names: the names of the locks.
            max_wait: seconds to wait, if less than the deadline of a request.

        Raises:
            Error: ``UNAVAILABLE`` when that time passes first.
        """
        deadline = self._deadline if max_wait is None else max_wait
        locks = [self._locks.setdefault(name, asyncio.Lock()) for name in sorted(set(names))]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(deadline):
                    for lock in locks:
                        await stack.enter_async_context(lock)
            except TimeoutError:
                raise Error(
                    Kind.UNAVAILABLE,
                    f"{', '.join(sorted(names))} has been busy for {deadline:.0f} s",
                    "repeat the request later",
                    "busy",
                ) from None
            yield
