"""Background work that is gathered for a moment and then done as one batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Set
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_log = logging.getLogger(__name__)

PAUSE: Final = 0.05
"""Seconds for which work is gathered."""
LONGEST_PAUSE: Final = 1.0
"""Seconds for which work is gathered at most, after batches that took long."""


class Batcher(Generic[T]):
    """Runs one task while there is work, and none otherwise.

    Args:
        work: called once for each batch, with all its items; it reports expected failures itself.
        pause: seconds for which work is gathered.
        share: the part of the time that batches may take, above 0 and at most 1. After a batch that took long, work is
            gathered for longer, but not for longer than ``LONGEST_PAUSE``.
    """

    def __init__(self, work: Callable[[Set[T]], Awaitable[None]], pause: float = PAUSE, share: float = 1.0) -> None:
        self._work = work
        self._pause = pause
        self._share = share
        self._next = 0.0
        """Time before which no batch begins, unless a caller waits for it."""
        self._wanted = asyncio.Event()
        """Set when a caller waits for items that are gathered."""
        self._waiting: set[T] = set()
        self._working: set[T] = set()
        self._finished = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> Set[T]:
        """Items that are gathered or being worked on."""
        return self._waiting | self._working

    def add(self, items: Iterable[T]) -> None:
        """Put these items into the next batch."""
        self._waiting.update(items)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self, concerned: Callable[[Set[T]], bool] = bool) -> None:
        """Wait until ``concerned`` is false for the pending items; by default, until there are none.

        Nothing is gathered for longer then.
        """
        while concerned(self.pending):
            if concerned(self._waiting):
                self._wanted.set()
            await self._finished.wait()

    async def _gather(self) -> None:
        """Return after the pause, or when a caller waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._pause, self._next - time.monotonic())):
                await self._wanted.wait()
        self._wanted.clear()

    async def _run(self) -> None:
        while self._waiting:
            await self._gather()
            self._working, self._waiting = self._waiting, set()
            begun = time.monotonic()
            try:
                await self._work(self._working)
            except Exception:  # callers that wait for the next batch must not wait for ever
                _log.exception("work in the background failed")
            finally:
                ended = time.monotonic()
                self._next = ended + min((ended - begun) * (1 / self._share - 1), LONGEST_PAUSE)
                self._working = set()
                self._finished.set()
                self._finished = asyncio.Event()
