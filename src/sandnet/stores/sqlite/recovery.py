"""Copies of the embedded store's file, and what is done when the file is damaged or gone.

A copy is written beside the file, checked, made durable and then renamed into its place: at no time is there
half of one. Two generations are kept, so that damage which a copy has not noticed does not reach both. A file that
others broke while it was in use is written again from memory.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind
from sandnet.stores.base import REBUILD, Entry, Put
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite.digest import CONTENT_DIGEST, Digest
from sandnet.stores.sqlite.file import (
    CORRUPT,
    MIGRATIONS,
    check,
    connect,
    corrupt,
    make_private,
    open_file,
    storage_errors,
)

REPAIRED: Final = "repaired"
"""What is appended to the name of a file that is whole, and is to take the place of one that others broke."""

_PARTS: Final = ("", "-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database for the files that belong to it (sqlite.org/tempfiles.html)."""

_PASSING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_PASSING_SQLITE: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN)
"""Failures to write a new file. Who goes on without the copy for such a reason loses what it holds."""


class OpenedStore(NamedTuple):
    """A store that can be used."""

    connection: sqlite3.Connection
    problems: tuple[str, ...]
    """What was wrong with the file, what was kept of it and what it was replaced by, in words."""


def open_or_salvage(path: Path) -> OpenedStore:
    """Open the store; a damaged file is kept aside, and replaced by the last good copy or by an empty store.

    Whatever replaces a file holds the entry ``REBUILD``, or no revision at all: what it lacks can be looked for
    elsewhere, however often that is interrupted.

    Raises:
        Error: kind ``UNAVAILABLE``, as ``open_file``, for all that is not damage.
    """
    with storage_errors(path):
        if _size(_beside(path, REPAIRED)):
            _finish(path)
        problem = _vanished(path)
        if not problem:
            try:
                return OpenedStore(open_file(path, lambda version: _copy(path, _beside(path, f"schema-{version}"))), ())
            except Error as error:
                if error.code != CORRUPT:
                    raise
                problem = error.message
        kept = _set_aside(path)
        source = _put_back(path, problem)
        told = f"{problem}; {f'it is kept as {kept}, and ' if kept else ''}the daemon went on with {source}"
        return OpenedStore(open_file(path), (told,))


def write_backup(path: Path) -> None:
    """Copy the store, which may be in use, to the newer generation; the one before becomes the older.

    Raises:
        Error: kind ``UNAVAILABLE``: no room, or the store is damaged. The generations are as before.
    """
    with storage_errors(path):
        newer, older = generations(path)
        half = _written(path, newer)
        with suppress(FileNotFoundError):
            os.replace(newer, older)
        _rename(half, newer)


def read_all(path: Path) -> list[Entry]:
    """All entries of a store, in key order and as of one moment, whether it is in use or not.

    Raises:
        Error: kind ``UNAVAILABLE``: there is no store, or it is damaged, or of another version.
    """
    with storage_errors(path):
        if check(path) != len(MIGRATIONS):
            message = f"the store {path} is empty, or of an older version"
            raise Error(Kind.UNAVAILABLE, message, "start the daemon once", "store_unavailable")
        with closing(connect(path, "?mode=ro")) as connection:
            rows = connection.execute("SELECT key, value, revision FROM entries ORDER BY key").fetchall()
            return [Entry._make(row) for row in rows]


def replace_all(path: Path, puts: Sequence[Put]) -> Path | None:
    """A new store that holds just these, in place of the one there is, which nobody may have open.

    Returns:
        Where the old one is kept; ``None``: there was none.

    Raises:
        Error: kind ``UNAVAILABLE``: no room, or not ours alone. The store is as it was.
    """
    with storage_errors(path):
        make_private(path)
        half = _beside(path, "new")
        _write_new(half, Contents((Entry(put.key, put.value, 1) for put in puts), 1))
        kept = _set_aside(path, "replaced")
        _rename(half, path)
        return kept


def write_again(path: Path, contents: Contents) -> Path | None:
    """A new store that holds just this, in place of whatever is there now.

    Whoever dies in it loses nothing from the moment the new file is complete: the next start finds it beside, and
    puts it in place first (``_finish``). Until then what is there is left as it is.

    Returns:
        Where what was there is kept; ``None``: there was nothing.

    Raises:
        Error: kind ``UNAVAILABLE``, or OSError: it cannot be written.
    """
    half = _beside(path, "new")
    _write_new(half, contents)
    _rename(half, _beside(path, REPAIRED))
    return _finish(path)


def _finish(path: Path) -> Path | None:
    """Put the complete file in place; it holds all that was ever promised."""
    kept = _set_aside(path)
    _rename(_beside(path, REPAIRED), path)
    return kept


def _write_new(path: Path, contents: Contents) -> None:
    _drop(path)
    try:
        with closing(open_file(path)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany("INSERT INTO entries VALUES (?, ?, ?)", contents.list(""))
            writer.execute("UPDATE head SET revision = ?", (contents.revision,))
            writer.execute(f"UPDATE head SET digest = ({CONTENT_DIGEST})")  # noqa: S608 - our own text
            writer.execute("COMMIT")
    except BaseException:
        _drop(path)
        raise


def generations(path: Path) -> tuple[Path, Path]:
    """Where the copies of a store are, the newer first."""
    return _beside(path, "backup"), _beside(path, "backup-1")


def _copy(path: Path, target: Path) -> None:
    _rename(_written(path, target), target)


def _written(path: Path, target: Path) -> Path:
    half = _beside(target, "new")
    try:
        _private_and_empty(half)
        with closing(connect(path, "?mode=rw")) as source:  # one that is gone is not made
            source.execute("VACUUM INTO ?", (str(half),))
        if check(half) == 0:
            raise corrupt(path, "it is empty")
        _sync(half, os.O_RDWR)
    except BaseException:
        _drop(half)
        raise
    return half


def _private_and_empty(path: Path) -> None:
    """Whoever wrote it last may have been killed: SQLite would take a log or journal left there for this file's own."""
    _drop(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _drop(path: Path) -> None:
    for part in reversed(_PARTS):
        Path(f"{path}{part}").unlink(missing_ok=True)


def _will_pass(failure: Exception) -> bool:
    """Whether it says nothing of the file that was read: there is no room, or no leave to write."""
    if isinstance(failure, sqlite3.Error):
        return getattr(failure, "sqlite_errorcode", 0) & 0xFF in _PASSING_SQLITE
    return isinstance(failure, OSError) and failure.errno in _PASSING


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    _sync(target.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _vanished(path: Path) -> str:
    """Why an absent or empty file is a loss and no first start; empty when it is none."""
    if _size(path):
        return ""
    if not any(_size(trace) for trace in (*generations(path), Path(f"{path}-wal"))):
        return ""
    return f"the store {path} is {'empty' if path.exists() else 'gone'}"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _set_aside(path: Path, why: str = "damaged") -> Path | None:
    """Rename the file and all that belongs to it; the new name, or ``None`` when there was nothing in them."""
    found = [part for part in _PARTS if _size(Path(f"{path}{part}"))]
    if not found:
        return None
    kept = next(name for name in _dated(path, why) if not name.exists())
    for part in found:
        os.rename(f"{path}{part}", f"{kept}{part}")
    _sync(path.parent, os.O_RDONLY)
    return kept


def _dated(path: Path, why: str) -> Iterator[Path]:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    yield _beside(path, f"{why}-{stamp}")
    for number in range(2, 1000):
        yield _beside(path, f"{why}-{stamp}-{number}")


def _put_back(path: Path, problem: str) -> str:
    """The newest copy that is sound in place of the file; what it was, in words.

    Raises:
        OSError: a copy may be sound, and cannot be put in place now (``_PASSING``).
        sqlite3.Error: likewise.
    """
    for copy in generations(path):
        half = _beside(path, "new")
        try:
            _private_and_empty(half)
            shutil.copyfile(copy, half, follow_symlinks=False)
            check(half)
            with closing(connect(half)) as connection:
                _mark_taken(connection, problem)
            _sync(half, os.O_RDWR)
        except (OSError, sqlite3.Error, Error) as failure:
            _drop(half)
            if _will_pass(failure):
                raise
            continue
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(copy.stat().st_mtime))
        _rename(half, path)
        return f"its copy of {written}"
    make_private(path)
    return "an empty one, as there is no good copy"


def _mark_taken(connection: sqlite3.Connection, problem: str) -> None:
    """Say in the copy that it is one, whatever schema version it has."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, 0)", (REBUILD, problem.encode()))
    if "digest" in [column[1] for column in connection.execute("PRAGMA table_info(head)")]:
        stored = connection.execute("SELECT digest FROM head").fetchone()[0]
        digest = Digest(stored).add(REBUILD, problem.encode(), 0).stored()
        connection.execute("UPDATE head SET digest = ?", (digest,))
    connection.execute("COMMIT")
