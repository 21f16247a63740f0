"""The embedded store: one SQLite file, one writer, and all contents in memory.

To make a transaction durable costs 0.2 ms on a good disk and 100 ms on a bad one, whatever its size. So all commits
that wait while a transaction is written share the next one (group commit); each has its own outcome. The log is copied
into the file by a job of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path

from sandnet.errors import Error
from sandnet.stores.base import Change, Changed, Entry, Repaired, Snapshot, check_keys
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite.backups import Backups
from sandnet.stores.sqlite.file_guard import FileGuard
from sandnet.stores.sqlite.rows import Changes, Outcome, Outcomes
from sandnet.stores.watchers import BACKLOG, Watchers, closed_error
from sandnet.threads import JobThreads

CHECKPOINT = 1.0
"""Seconds after a commit at which the log is copied into the file, all commits at once, so that no commit waits for it.
So a commit that need not be durable is durable after this time, or some milliseconds more."""


class _PendingCommit:
    """A commit whose outcome is not known yet."""

    def __init__(self, changes: Changes, durable: bool) -> None:
        self.changes, self.durable = changes, durable
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._is_finished = False

    async def wait(self) -> Outcome:
        """Return the outcome. A cancellation arrives after it: the caller must not continue while this is written."""
        try:
            return await self._outcome
        except asyncio.CancelledError:
            if not self._is_finished:
                self._outcome = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._outcome])
            raise

    def finish(self, outcome: Outcome) -> None:
        """Set the outcome."""
        self._is_finished = True
        if not self._outcome.done():  # else its waiter was cancelled in this moment
            self._outcome.set_result(outcome)


class SqliteStore:
    """A ``Store`` in a file to which only this process writes.

    Args:
        path: the file; its directory is created (0700) if absent, and must be owned by our user.
        backlog: commits that a watcher may lag behind before it gets a new ``Snapshot``.
        backups: backups of the file; ``None``: with the default times.
    """

    def __init__(self, path: Path, backlog: int = BACKLOG, backups: Backups | None = None) -> None:
        self._file = FileGuard(path)
        self._contents = Contents()
        """Contents after the last commit whose outcome is known; not modified while the writer works."""
        self._is_open = False
        self._writes = JobThreads(1, "store-writer")
        self._queue: list[_PendingCommit] = []
        self._running: asyncio.Future[Outcomes] | asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """For the checkpoint after the commits that were made since the last one."""
        self._wants_checkpoint = False
        self._watchers = Watchers(backlog)
        self._backups = backups or Backups(path)
        self._open_problems: tuple[str, ...] = ()
        self._commit_failure = ""
        """Why the last commit failed."""
        self._repair_failure = ""
        """Why the file could not be repaired."""

    async def open(self) -> None:
        """Open the file; a damaged one is renamed and replaced. Before this call, all other methods are refused.

        Raises:
            Error: kind ``UNAVAILABLE``, as :func:`sandnet.stores.sqlite.recovery.open_or_salvage`.
        """
        self._contents, self._open_problems = await self._writes.submit(self._file.open)
        self._is_open = True

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``. It does not wait."""
        return self._opened().get(key)

    async def list(self, prefix: str) -> Sequence[Entry]:
        """See ``Store.list``. It does not wait."""
        return self._opened().list(prefix)

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``."""
        self._opened()
        check_keys(changes)
        pending = _PendingCommit(changes, durable)
        self._queue.append(pending)
        if self._running is None:
            self._write_queue()
        outcome = await pending.wait()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.revision

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``Store.watch``. All commits are made by this process."""
        return self._watchers.watch(prefix, self._snapshot)

    def problems(self) -> Sequence[str]:
        """See ``Store.problems``: damage found when it was opened, and the current failures."""
        problems = (*self._open_problems, self._commit_failure, self._repair_failure, self._backups.problem)
        return [*dict.fromkeys(problem for problem in problems if problem)]

    async def verify(self) -> Sequence[Repaired]:
        """See ``Store.verify``. While a commit is being written there is no check here: the commit checks too."""
        if self._is_open and self._running is None:
            doubt, self._backups.damage = self._backups.damage, ""
            job = partial(self._file.verify, self._contents, doubt)
            self._running = self._writes.submit(job)
            self._running.add_done_callback(self._checked)
            await asyncio.wait([self._running])
        return self._file.take_repaired()

    async def close(self) -> None:
        """See ``Store.close``."""
        if not self._is_open:
            return
        self._is_open = False
        if self._timer:
            self._timer.cancel()
        while self._running is not None:
            await asyncio.wait([self._running])
        self._watchers.close()
        await self._backups.close()
        await self._writes.submit(partial(self._file.close, self._contents))
        self._writes.close(wait=False)

    def _opened(self) -> Contents:
        if not self._is_open:
            raise closed_error()
        return self._contents

    async def _snapshot(self, prefix: str) -> Snapshot:
        return self._opened().snapshot(prefix)

    def _write_queue(self) -> None:
        batch, self._queue = self._queue, []
        durable = any(pending.durable for pending in batch)
        changes = [pending.changes for pending in batch]
        job = partial(self._file.write, self._contents, changes, durable=durable)
        running: asyncio.Future[Outcomes] = self._writes.submit(job)
        running.add_done_callback(partial(self._written, batch))
        self._running = running

    def _written(self, batch: Sequence[_PendingCommit], job: asyncio.Future[Outcomes]) -> None:
        failure = job.exception()
        outcomes: Sequence[Outcome] = job.result() if failure is None else [failure] * len(batch)
        self._commit_failure = str(failure) if failure else ""
        changed = [outcome for outcome in outcomes if isinstance(outcome, Changed)]
        for each in changed:
            self._contents.apply(each)
        self._next()
        if failure is None:
            self._backups.changed()
            self._timer = self._timer or asyncio.get_running_loop().call_later(CHECKPOINT, self._checkpoint)
        for each in changed:
            self._watchers.publish(each)
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.finish(outcome)

    def _checked(self, job: asyncio.Future[None]) -> None:
        failure = job.exception()
        self._repair_failure = str(failure) if isinstance(failure, Error) else repr(failure) if failure else ""
        self._next()

    def _checkpoint(self) -> None:
        """Copy the log into the file: now, or after the commit that is being written."""
        self._wants_checkpoint = self._running is not None
        if not self._wants_checkpoint:
            self._timer = None
            self._running = self._writes.submit(self._file.checkpoint)
            self._running.add_done_callback(self._checked)

    def _next(self) -> None:
        self._running = None
        if self._wants_checkpoint and self._is_open:  # first: commits that come one after another must not prevent it
            self._checkpoint()
        elif self._queue:
            self._write_queue()
