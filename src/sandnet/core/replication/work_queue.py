"""A queue of objects to bring into line, each at most once, with a delay that grows while one fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

from sandnet.errors import Error

_log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.2
LONGEST_DELAY: Final = 10.0
"""Seconds from a failed attempt to the next; they double from the first to the longest."""
CONCURRENCY: Final = 32
"""Objects that are worked on at a time: each waits for commits and for the kernel most of its time."""


class _FailedWork(NamedTuple):
    due: float
    delay: float
    text: str


class WorkQueue:
    """Objects by key. One that is added while it is worked on is worked on again.

    Args:
        work: brings one object into line; idempotent.
    """

    def __init__(self, work: Callable[[str], Awaitable[None]]) -> None:
        self._work = work
        self._pending: dict[str, None] = {}
        self._running: set[str] = set()
        self._failures: dict[str, _FailedWork] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def problems(self) -> list[str]:
        """One text for each object whose latest attempt failed."""
        return [failure.text for failure in self._failures.values()]

    @property
    def is_idle(self) -> bool:
        """Whether all objects are in line, but for those that failed."""
        return self._idle.is_set()

    def add(self, keys: Iterable[str]) -> None:
        """Add objects; those that wait after a failure are tried at once."""
        for key in keys:
            self._failures.pop(key, None)
            self._pending[key] = None
        self._changed.set()
        if self._pending:
            self._idle.clear()

    def add_failed(self, keys: Iterable[str], failure: BaseException) -> None:
        """Add objects as if an attempt at them had failed. One that has failed before is not tried later for that."""
        for key in keys:
            before = self._failures.get(key) or _FailedWork(time.monotonic() + FIRST_DELAY, FIRST_DELAY, "")
            self._failures[key] = before._replace(text=f"{key}: {failure}")
        self._changed.set()

    def retry(self) -> None:
        """Try those that failed again at once."""
        self.add([*self._failures])

    async def drained(self) -> None:
        """Wait until all objects are in line, but for those that failed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work until this is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._take_due()
                while self._pending and len(self._running) < CONCURRENCY:
                    key = next((each for each in self._pending if each not in self._running), None)
                    if key is None:
                        break
                    del self._pending[key]
                    self._running.add(key)
                    tasks.create_task(self._attempt(key))
                if not self._pending and not self._running:
                    self._idle.set()
                await self._wait()

    def _take_due(self) -> None:
        now = time.monotonic()
        for key, failure in self._failures.items():
            if failure.due <= now and key not in self._running:
                self._pending[key] = None

    async def _wait(self) -> None:
        busy = self._pending.keys() | self._running
        waiting = [failure.due for key, failure in self._failures.items() if key not in busy]
        delay = max(0.0, min(waiting) - time.monotonic()) if waiting else None
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _attempt(self, key: str) -> None:
        before = self._failures.get(key)
        try:
            await self._work(key)
        except Exception as failure:
            delay = min(before.delay * 2, LONGEST_DELAY) if before else FIRST_DELAY
            self._failures[key] = _FailedWork(time.monotonic() + delay, delay, f"{key}: {failure}")
            if not isinstance(failure, Error):
                _log.exception("%s could not be brought into line with the shared store", key)
            elif before and before.delay < delay == LONGEST_DELAY:
                _log.warning("%s is still not in line with the shared store: %s", key, failure)
        else:
            if self._failures.get(key) is before:  # else another failure was added during the attempt
                self._failures.pop(key, None)
        finally:
            self._running.discard(key)
            self._changed.set()
