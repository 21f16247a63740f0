"""Background work that is gathered for a moment and then done as one batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Set
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_log = logging.getLogger(__name__)

PAUSE: Final = 0.05
"""Seconds for which work is gathered."""


class Batcher(Generic[T]):
    """Runs one task while there is work, and none otherwise.

    Args:
        work: called once for each batch, with all its items; it reports expected failures itself.
        pause: seconds for which work is gathered.
    """

    def __init__(self, work: Callable[[Set[T]], Awaitable[None]], pause: float = PAUSE) -> None:
        self._work = work
        self._pause = pause
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
        """Wait until ``concerned`` is false for the pending items; by default, until there are none."""
        while concerned(self.pending):
            await self._finished.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._pause)
            self._working, self._waiting = self._waiting, set()
            try:
                await self._work(self._working)
            except Exception:  # callers that wait for the next batch must not wait for ever
                _log.exception("work in the background failed")
            finally:
                self._working = set()
                self._finished.set()
                self._finished = asyncio.Event()
