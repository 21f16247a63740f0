"""The guard of the state file in use: it detects changes by other processes, and writes the file again.

If another process deletes, replaces, truncates or writes one of the files, SQLite does not notice: it continues with
files that have no name any more. So before and after each commit, and every second, the guard checks whether the files
are still those that we wrote last. All committed data are in memory; if the files differ, it writes a new file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Repaired
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite import rows
from sandnet.stores.sqlite.file import CORRUPT, open_file, storage_errors
from sandnet.stores.sqlite.recovery import open_or_salvage, write_again
from sandnet.stores.sqlite.rows import Changes, Outcomes
from sandnet.stores.watchers import closed_error

_log = logging.getLogger(__name__)

_WATCHED: Final = {"": "the file", "-wal": "its log (-wal)", "-shm": "its index (-shm)"}
_MAPPED: Final = "-shm"
_LOG: Final = "-wal"


class _FileStamp(NamedTuple):
    """The identity of a file, and its state after our last write: another process that writes to it changes them."""

    device: int
    inode: int
    """Inode number; it is not reused while the file is open."""
    size: int
    written: int
    """Time of the last write in nanoseconds since the epoch; 0 for the index: it is written through a memory mapping,
    so its time has no meaning."""


_Stamps = tuple[_FileStamp | None, ...]


class FileGuard:
    """The guard of one connection and its files. Only one thread at a time may call its methods.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = [(f"{path}{part}", part == _MAPPED) for part in _WATCHED]
        self._connection: sqlite3.Connection | None = None
        self._stamps: _Stamps = ()
        self._fault = ""
        """Fault that is not repaired yet; empty: none."""
        self._repaired: list[Repaired] = []

    def open(self) -> tuple[Contents, tuple[str, ...]]:
        """Open the file; return its contents and descriptions of what was wrong with it.

        Raises:
            Error: as :func:`open_or_salvage`.
        """
        opened = open_or_salvage(self._path)
        with storage_errors(self._path):
            contents = rows.read(opened.connection)
        self._use(opened.connection)
        return contents, opened.problems

    def write(self, contents: Contents, batch: Sequence[Changes], *, durable: bool) -> Outcomes:
        """Write a batch of commits as :func:`rows.write`, and make sure that it is in the files now at the path.

        Args:
            contents: contents before the batch.
            batch: what to write.
            durable: as in :func:`rows.write`.

        Raises:
            Error: ``UNAVAILABLE``: nothing is written.
        """
        self.verify(contents)
        try:
            outcomes = self._written(contents, batch, durable=durable)
        except Error as failure:
            if failure.code != CORRUPT:
                raise
            self._write_again(contents, failure.message)
            outcomes = self._written(contents, batch, durable=durable)
        if self._fault:
            self._write_again(contents.after(each for each in outcomes if isinstance(each, Changed)), self._fault)
        return outcomes

    def verify(self, contents: Contents, doubt: str = "") -> None:
        """Check the files, and write them again if they are not those that we wrote last.

        Args:
            contents: expected contents.
            doubt: fault that the caller found; empty: none.

        Raises:
            Error: ``UNAVAILABLE``: the files are wrong, and cannot be written.
        """
        if fault := self._fault or _changed(self._stamps, self._check()) or doubt:
            self._write_again(contents, fault)

    def checkpoint(self) -> None:
        """Copy the log into the file. Afterwards all commits are durable (sqlite.org/wal.html, "Checkpointing").

        Files that are not those that we wrote last are left alone: :meth:`verify` writes and syncs all contents again.

        Raises:
            Error: ``UNAVAILABLE``: the files cannot be written.
        """
        if self._connection is None:
            raise closed_error()
        if self._fault or _changed(self._stamps, self._check()):
            return
        with storage_errors(self._path), self._stamping():
            _sync(f"{self._path}{_LOG}")  # a checkpoint syncs nothing while a reader needs all of the log
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def take_repaired(self) -> Sequence[Repaired]:
        """Return the repairs since the last call."""
        repaired, self._repaired = self._repaired, []
        return repaired

    def close(self, contents: Contents) -> None:
        """Verify and repair the files a last time, and close the connection; this checkpoints the log into the file."""
        try:
            self.verify(contents)
        except Error as failure:
            _log.error("%s", failure)
        if self._connection:
            self._connection.close()

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection, self._stamps, self._fault = connection, self._check(), ""

    def _written(self, contents: Contents, batch: Sequence[Changes], *, durable: bool) -> Outcomes:
        if self._connection is None:
            raise closed_error()
        with storage_errors(self._path), self._stamping():
            return rows.write(self._connection, contents, batch, durable=durable)

    @contextmanager
    def _stamping(self) -> Iterator[None]:
        """Remember the state of the files after the block, which writes them; a failed write may change the log too."""
        try:
            yield
        finally:
            now = self._check()
            self._fault = _moved(self._stamps, now)
            if not self._fault:
                self._stamps = now

    def _write_again(self, contents: Contents, fault: str) -> None:
        self._fault = fault
        try:
            with storage_errors(self._path):
                kept = write_again(self._path, contents)
            connection = open_file(self._path)
        except Error as failure:
            message = f"the state file {self._path} cannot be written again ({fault}): {failure.message}"
            raise Error(Kind.UNAVAILABLE, message, failure.hint, "store_unavailable") from failure
        former = self._connection
        self._use(connection)
        problem = f"{fault}{f'; what was there is kept as {kept}' if kept else ''}"
        _log.warning("the state file %s was written again: %s", self._path, problem)
        self._repaired.append(Repaired(str(self._path), problem))
        if former:  # its files are no longer at this path, so closing it changes none (sqlite3PagerClose)
            with suppress(sqlite3.Error):
                former.close()

    def _check(self) -> _Stamps:
        try:
            return tuple([_stamp(name, mapped) for name, mapped in self._names])
        except OSError:  # inaccessible files are treated as removed
            return (None,) * len(_WATCHED)


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fdatasync(file)
    finally:
        os.close(file)


def _moved(before: _Stamps, now: _Stamps) -> str:
    """Return which file was removed or replaced; empty: none."""
    if now == before:
        return ""
    for name, was, is_ in zip(_WATCHED.values(), before, now, strict=True):
        if is_ is None:
            return f"{name} is gone"
        if was is None or (is_.device, is_.inode) != (was.device, was.inode):
            return f"{name} is another file"
    return ""


def _changed(before: _Stamps, now: _Stamps) -> str:
    """Return which file was removed, replaced, truncated or written by another process; empty: none."""
    if moved := _moved(before, now):
        return moved
    for (part, name), was, is_ in zip(_WATCHED.items(), before, now, strict=True):
        if was and is_ and is_.size < was.size:
            return f"{name} was cut short"
        if part != _MAPPED and is_ != was:
            return f"{name} was written to by another program"
    return ""


def _stamp(path: str, mapped: bool) -> _FileStamp | None:
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _FileStamp(info.st_dev, info.st_ino, info.st_size, 0 if mapped else info.st_mtime_ns)
