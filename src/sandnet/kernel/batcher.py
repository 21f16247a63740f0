"""Work in the background that is gathered for a moment, and then done for all in one go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Set
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_log = logging.getLogger(__name__)

PAUSE: Final = 0.05
"""Seconds to gather."""


class Batcher(Generic[T]):
    """One task while there is work, and none otherwise.

    Args:
        work: done once a round, for all that were gathered; of failures that it foresees it tells itself.
        pause: seconds to gather.
    """

    def __init__(self, work: Callable[[Set[T]], Awaitable[None]], pause: float = PAUSE) -> None:
        self._work = work
        self._pause = pause
        self._waiting: set[T] = set()
        self._working: set[T] = set()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> Set[T]:
        """What is gathered or worked on."""
        return self._waiting | self._working

    def add(self, things: Iterable[T]) -> None:
        """Have these done in the next round."""
        self._waiting.update(things)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self, concerned: Callable[[Set[T]], bool] = bool) -> None:
        """Wait while the caller is concerned by what is pending: by anything, unless it says."""
        while concerned(self.pending):
            await self._over.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._pause)
            self._working, self._waiting = self._waiting, set()
            try:
                await self._work(self._working)
            except Exception:  # whoever waits for the next round must not wait for ever
                _log.exception("work in the background failed")
            finally:
                self._working = set()
                self._over.set()
                self._over = asyncio.Event()
