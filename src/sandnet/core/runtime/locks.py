"""Locks by name. They are apart from the records they guard: records are reloaded, locks are not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from sandnet.errors import Error, Kind

DEADLINE = 30.0
"""The longest time, in seconds, that a request waits for earlier ones on the same object."""


class Locks:
    """One lock per name, created at first use and dropped with its last holder."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._locks: dict[str, _Lock] = {}

    def hold(self, *names: str, max_wait: float | None = None) -> AbstractAsyncContextManager[None]:
        """Hold all locks with these names. They are always taken in name order, so two holders cannot wait for each
        other.

        Args:
            names: the names of the locks.
            max_wait: seconds to wait, if less than the deadline of a request.

        Raises:
            Error: ``UNAVAILABLE`` when that time passes first.
        """
        return _Hold(self._locks, sorted(set(names)), self._deadline if max_wait is None else max_wait)

    def are_free(self, *names: str) -> bool:
        """Return whether no one holds any of these locks, or waits for it."""
        return self._locks.keys().isdisjoint(names)


class _Lock(asyncio.Lock):
    """A lock that knows how many hold it or wait for it."""

    users = 0


class _Hold(AbstractAsyncContextManager[None]):
    """The block in which some locks are held."""

    def __init__(self, locks: dict[str, _Lock], names: Sequence[str], deadline: float) -> None:
        self._locks, self._names, self._deadline = locks, names, deadline
        self._held: list[str] = []

    async def __aenter__(self) -> None:
        are_free = self._locks.keys().isdisjoint(self._names)
        for name in self._names:
            self._locks.setdefault(name, _Lock()).users += 1
        try:
            if are_free:  # most are: nothing to wait for, so no timer is needed
                await self._acquire()
            else:
                async with asyncio.timeout(self._deadline):
                    await self._acquire()
        except BaseException as failure:
            self._release()
            if isinstance(failure, TimeoutError):
                raise self._busy() from None
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    async def _acquire(self) -> None:
        for name in self._names:
            await self._locks[name].acquire()
            self._held.append(name)

    def _release(self) -> None:
        for name in self._names:
            lock = self._locks[name]
            if name in self._held:
                lock.release()
            lock.users -= 1
            if not lock.users:
                del self._locks[name]

    def _busy(self) -> Error:
        message = f"{', '.join(self._names)} has been busy for {self._deadline:.0f} s"
        return Error(Kind.UNAVAILABLE, message, "repeat the request later", "busy")
