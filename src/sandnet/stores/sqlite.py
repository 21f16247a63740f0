"""The embedded store: one SQLite file, one writer, one reader, neither on the event loop.

Making a transaction durable costs 0.2 ms on a good disk and 100 ms on a bad one, however much is in it. So all
commits that wait while one is being written share the next transaction, each with its own outcome.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

from sandnet.stores.backups import Backups
from sandnet.stores.base import Change, Changed, Conflict, Entry, Put, Snapshot, check_keys
from sandnet.stores.salvage import open_or_salvage
from sandnet.stores.sqlite_digest import Digest
from sandnet.stores.sqlite_file import Connections, storage_errors
from sandnet.stores.watching import BACKLOG, Watchers, closed_error

T = TypeVar("T")

Changes = tuple[Change, ...]
Outcome = Changed | BaseException


class _Waiting(NamedTuple):
    changes: Changes
    durable: bool
    done: asyncio.Future[Outcome]


class SqliteStore:
    """Implements ``Store`` over a file that this process alone writes.

    Args:
        path: the file; its directory is made (0700) when absent, and must be ours.
        backlog: commits a watcher may fall behind before it gets a fresh ``Snapshot``.
        backups: when it is copied; ``None``: as usual.
    """

    def __init__(self, path: Path, backlog: int = BACKLOG, backups: Backups | None = None) -> None:
        self._path = path
        self._connections: Connections | None = None
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._queue: list[_Waiting] = []
        self._running: asyncio.Future[Sequence[Outcome]] | None = None
        self._watchers = Watchers(backlog)
        self._backups = backups or Backups(path)
        self._found: tuple[str, ...] = ()
        self._refused = ""

    async def open(self) -> None:
        """Open the file; a damaged one is kept aside and replaced. Everything else refuses before.

        Raises:
            Error: kind ``UNAVAILABLE``, as ``salvage.open_or_salvage`` says.
        """
        loop = asyncio.get_running_loop()
        self._connections, self._found = await loop.run_in_executor(self._writes, open_or_salvage, self._path)

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``. Waits for no commit."""
        return await self._read(lambda reader: _entry(reader, key))

    async def list(self, prefix: str) -> Sequence[Entry]:
        """See ``Store.list``. Waits for no commit."""
        return await self._read(lambda reader: _entries(reader, prefix))

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``."""
        writer = self._opened().writer
        check_keys(changes)
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(changes, durable, done))
        if self._running is None:
            self._write_queue(writer)
        try:
            outcome = await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])  # the caller must not go on while its commit may still happen
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.revision

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``Store.watch``. Sees the commits of this process, which are all there are."""
        return self._watchers.watch(prefix, self._snapshot)

    def problems(self) -> Sequence[str]:
        """See ``Store.problems``: damage found when it was opened, and what fails at the moment."""
        return [problem for problem in (*self._found, self._refused, self._backups.problem) if problem]

    async def close(self) -> None:
        """See ``Store.close``."""
        if self._connections is None:
            return
        connections, self._connections = self._connections, None
        while self._running is not None:
            await asyncio.wait([self._running])
        self._watchers.close()
        await self._backups.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reads, connections.reader.close)
        await loop.run_in_executor(self._writes, connections.writer.close)
        self._reads.shutdown(wait=False)
        self._writes.shutdown(wait=False)

    def _opened(self) -> Connections:
        if self._connections is None:
            raise closed_error()
        return self._connections

    async def _snapshot(self, prefix: str) -> Snapshot:
        return await self._read(lambda reader: _snapshot(reader, prefix))

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        bound = partial(_guarded, self._path, partial(job, self._opened().reader))
        return await asyncio.get_running_loop().run_in_executor(self._reads, bound)

    def _write_queue(self, writer: sqlite3.Connection) -> None:
        batch, self._queue = self._queue, []
        durable = any(waiting.durable for waiting in batch)
        job = partial(_write, writer, [waiting.changes for waiting in batch], durable=durable)
        self._running = asyncio.get_running_loop().run_in_executor(self._writes, _guarded, self._path, job)
        self._running.add_done_callback(partial(self._written, writer, batch))

    def _written(
        self, writer: sqlite3.Connection, batch: Sequence[_Waiting], job: asyncio.Future[Sequence[Outcome]]
    ) -> None:
        failure = job.exception()
        outcomes = job.result() if failure is None else [failure] * len(batch)
        self._running = None
        self._refused = str(failure) if failure else ""
        if self._queue:
            self._write_queue(writer)
        if failure is None:
            self._backups.changed()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Changed):
                self._watchers.publish(outcome)
            waiting.done.set_result(outcome)


def _guarded(path: Path, job: Callable[[], T]) -> T:
    with storage_errors(path):
        return job()


def _entry(connection: sqlite3.Connection, key: str) -> Entry | None:
    row = connection.execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
    return Entry._make(row) if row else None


def _entries(connection: sqlite3.Connection, prefix: str) -> list[Entry]:
    """A scan from the prefix on: LIKE would read wildcards in it, and not every prefix has a next string."""
    query = "SELECT key, value, revision FROM entries WHERE key >= ? ORDER BY key"
    with closing(connection.execute(query, (prefix,))) as rows:  # an open cursor would hold the log's end
        return [Entry._make(row) for row in takewhile(lambda row: row[0].startswith(prefix), rows)]


def _snapshot(connection: sqlite3.Connection, prefix: str) -> Snapshot:
    connection.execute("BEGIN")
    try:
        return Snapshot(tuple(_entries(connection, prefix)), _head(connection))
    finally:
        connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, batch: Sequence[Changes], *, durable: bool) -> list[Outcome]:
    """One transaction for the whole batch; a commit whose expectation fails leaves the others alone.

    In WAL mode NORMAL leaves the sync to a later commit (sqlite.org/pragma.html#pragma_synchronous).
    """
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        before, stored = connection.execute("SELECT revision, digest FROM head").fetchone()
        head, digest = before, Digest(stored)
        outcomes: list[Outcome] = []
        for changes in batch:
            conflict = _conflict(connection, changes)
            if conflict is None:
                head += 1
            outcomes.append(conflict or _apply(connection, changes, head, digest))
        if head != before:
            digest.remove("", b"", before).add("", b"", head)
            connection.execute("UPDATE head SET revision = ?, digest = ?", (head, digest.stored()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _conflict(connection: sqlite3.Connection, changes: Changes) -> Conflict | None:
    for change in changes:
        if change.expect is not None and change.expect != _revision(connection, change.key):
            return Conflict(change.key)
    return None


def _apply(connection: sqlite3.Connection, changes: Changes, revision: int, digest: Digest) -> Changed:
    puts, deletes = [], []
    for change in changes:
        before = _entry(connection, change.key)
        if before:
            digest.remove(*before)
        if isinstance(change, Put):
            puts.append(Entry(change.key, change.value, revision))
            digest.add(*puts[-1])
        elif before:
            deletes.append(change.key)
    connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", puts)
    connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in deletes])
    return Changed(tuple(puts), tuple(deletes), revision)


def _revision(connection: sqlite3.Connection, key: str) -> int:
    row = connection.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def _head(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT revision FROM head").fetchone()[0])
