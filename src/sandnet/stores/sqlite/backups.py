"""When the embedded store is copied: in the background, after changes, and never often."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandnet.errors import Error
from sandnet.stores.sqlite.file import CORRUPT
from sandnet.stores.sqlite.recovery import write_backup

_log = logging.getLogger(__name__)

DELAY = 2.0
"""Seconds from the first change after a quiet time to its copy."""
INTERVAL = 30.0
"""Seconds from a copy to the next one at the earliest."""


class Backups:
    """Copies of one store. Belongs to the event loop; the copying has a thread of its own.

    Args:
        path: the store's file.
        delay: as ``DELAY``.
        interval: as ``INTERVAL``.
    """

    def __init__(self, path: Path, delay: float = DELAY, interval: float = INTERVAL) -> None:
        self._path = path
        self._delay, self._interval = delay, interval
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-backup")
        self._timer: asyncio.TimerHandle | None = None
        self._job: asyncio.Future[None] | None = None
        self._earliest = 0.0
        self._pending = False
        self.problem = ""
        """Why the last copy could not be written; empty when it could."""
        self.damage = ""
        """What was wrong with the store when it was copied; empty: nothing."""

    def changed(self) -> None:
        """The store holds something that no copy has."""
        self._pending = True
        if self._timer is None and self._job is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + self._delay, self._earliest), self._start)

    async def close(self) -> None:
        """Copy what no copy has yet."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._job is not None:
            await asyncio.wait([self._job])
        if self._pending:
            self._start()
            while self._job is not None:
                await asyncio.wait([self._job])
        self._thread.shutdown(wait=False)

    def _start(self) -> None:
        self._timer, self._pending = None, False
        loop = asyncio.get_running_loop()
        self._job = loop.run_in_executor(self._thread, write_backup, self._path)
        self._job.add_done_callback(self._done)

    def _done(self, job: asyncio.Future[None]) -> None:
        self._job = None
        failure = job.exception()
        self._earliest = asyncio.get_running_loop().time() + (self._delay if failure else self._interval)
        self.problem = f"no copy of the state could be written: {failure}" if failure else ""
        damaged = isinstance(failure, Error) and failure.code == CORRUPT
        self.damage = str(failure) if damaged else ""
        if failure:
            _log.warning("%s", self.problem, exc_info=None if isinstance(failure, Error) else failure)
