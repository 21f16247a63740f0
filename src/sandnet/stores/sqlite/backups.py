"""Backups of the embedded store: in the background, after changes, with a minimum interval."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

from sandnet.errors import Error
from sandnet.stores.sqlite.file import CORRUPT
from sandnet.stores.sqlite.recovery import write_backup
from sandnet.threads import JobThreads

_log = logging.getLogger(__name__)

DELAY = 2.0
"""Seconds from the first change after a quiet time to its backup."""
INTERVAL = 30.0
"""Minimum seconds between two backups."""


class Backups:
    """The backups of one store. For use in the event loop; a separate thread copies the file.

    Args:
        path: the store's file.
        delay: see :data:`DELAY`.
        interval: see :data:`INTERVAL`.
    """

    def __init__(self, path: Path, delay: float = DELAY, interval: float = INTERVAL) -> None:
        self._path = path
        self._delay, self._interval = delay, interval
        self._thread = JobThreads(1, "store-backup")
        self._timer: asyncio.TimerHandle | None = None
        self._job: asyncio.Future[None] | None = None
        self._earliest = 0.0
        self._pending = False
        """Whether there are changes without a backup."""
        self._closing = False
        self.problem = ""
        """Why the last backup failed; empty: it succeeded."""
        self.damage = ""
        """Damage of the store that the last backup found; empty: none."""

    def changed(self) -> None:
        """Schedule a backup, because the store has changed."""
        self._pending = True
        if self._timer is None and self._job is None:
            self._schedule()

    async def close(self) -> None:
        """Write a last backup if there are changes without one, and stop the thread."""
        self._closing = True
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._job is not None:
            await asyncio.wait([self._job])
        if self._pending:
            self._start()
            while self._job is not None:
                await asyncio.wait([self._job])
        self._thread.close(wait=False)

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(loop.time() + self._delay, self._earliest), self._start)

    def _start(self) -> None:
        self._timer, self._pending = None, False
        self._job = self._thread.submit(partial(write_backup, self._path))
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
        if self._pending and not self._closing:  # changed while the file was copied
            self._schedule()
