"""Recovery of the embedded store: backups, and the restore of a damaged or lost file.

A backup is written beside the file, checked, made durable and then renamed (atomic replacement): there is never an
incomplete one. Two generations are kept, so that damage that a backup did not detect does not reach both. A file that
another process damaged while it was in use is written again from memory.
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
"""Suffix of a complete file that is going to replace a damaged one."""

_PARTS: Final = ("", "-wal", "-shm", "-journal")
"""Suffixes of the files that belong to an SQLite database (sqlite.org/tempfiles.html)."""

_TEMPORARY: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_TEMPORARY_SQLITE: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN)
"""Temporary failures to write a new file. They do not make a backup unusable: skipping it would lose its data."""


class OpenedStore(NamedTuple):
    """An opened store."""

    connection: sqlite3.Connection
    problems: tuple[str, ...]
    """Descriptions of what was wrong with the file, where it is kept, and what replaced it."""


def open_or_salvage(path: Path) -> OpenedStore:
    """Open the store; rename a damaged file, and replace it by the last good backup or by an empty store.

    The replacement contains the entry ``REBUILD``, or no revision at all. So the missing records can be rebuilt from
    other sources, even after several interruptions.

    Raises:
        Error: kind ``UNAVAILABLE``, as ``open_file``, for all problems but damage.
    """
    with storage_errors(path):
        if _size(_sibling(path, REPAIRED)):
            _complete_replacement(path)
        problem = _loss(path)
        if not problem:
            try:
                opened = open_file(path, lambda version: _copy(path, _sibling(path, f"schema-{version}")))
                return OpenedStore(opened, ())
            except Error as error:
                if error.code != CORRUPT:
                    raise
                problem = error.message
        kept = _set_aside(path)
        source = _restore(path, problem)
        report = f"{problem}; {f'it is kept as {kept}, and ' if kept else ''}the daemon went on with {source}"
        return OpenedStore(open_file(path), (report,))


def write_backup(path: Path) -> None:
    """Write a backup of the store, which may be in use: it becomes the newer generation, the former one the older.

    Raises:
        Error: kind ``UNAVAILABLE``: no space, or the store is damaged. The generations are unchanged.
    """
    with storage_errors(path):
        newer, older = generations(path)
        temporary = _write_copy(path, newer)
        with suppress(FileNotFoundError):
            os.replace(newer, older)
        _rename(temporary, newer)


def read_all(path: Path) -> list[Entry]:
    """Return all entries of a store in key order, as one consistent snapshot. The store may be in use.

    Raises:
        Error: kind ``UNAVAILABLE``: there is no store, it is damaged, or it has another version.
    """
    with storage_errors(path):
        if check(path) != len(MIGRATIONS):
            message = f"the store {path} is empty, or of an older version"
            raise Error(Kind.UNAVAILABLE, message, "start the daemon once", "store_unavailable")
        with closing(connect(path, "?mode=ro")) as connection:
            rows = connection.execute("SELECT key, value, revision FROM entries ORDER BY key").fetchall()
            return [Entry._make(row) for row in rows]


def replace_all(path: Path, puts: Sequence[Put]) -> Path | None:
    """Replace the store by a new one with exactly these entries. No process may have the store open.

    Returns:
        The new path of the old store; ``None``: there was none.

    Raises:
        Error: kind ``UNAVAILABLE``: no space, or another user owns or may write it. The store is unchanged.
    """
    with storage_errors(path):
        make_private(path)
        temporary = _sibling(path, "new")
        _write_new(temporary, Contents((Entry(put.key, put.value, 1) for put in puts), 1))
        kept = _set_aside(path, "replaced")
        _rename(temporary, path)
        return kept


def write_again(path: Path, contents: Contents) -> Path | None:
    """Replace the file at the path by a new store with exactly these contents.

    If the process is killed after the new file is complete, nothing is lost: the next start finds the new file and
    completes the replacement first (``_complete_replacement``). Before that, the old file is not changed.

    Returns:
        The new path of the old file; ``None``: there was none.

    Raises:
        Error: kind ``UNAVAILABLE``, or OSError: it cannot be written.
    """
    temporary = _sibling(path, "new")
    _write_new(temporary, contents)
    _rename(temporary, _sibling(path, REPAIRED))
    return _complete_replacement(path)


def _complete_replacement(path: Path) -> Path | None:
    """Rename the complete file, which contains all committed data, to the path of the store."""
    kept = _set_aside(path)
    _rename(_sibling(path, REPAIRED), path)
    return kept


def _write_new(path: Path, contents: Contents) -> None:
    _delete_files(path)
    try:
        with closing(open_file(path)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany("INSERT INTO entries VALUES (?, ?, ?)", contents.list(""))
            writer.execute("UPDATE head SET revision = ?", (contents.revision,))
            writer.execute(f"UPDATE head SET digest = ({CONTENT_DIGEST})")  # noqa: S608 - our own text
            writer.execute("COMMIT")
    except BaseException:
        _delete_files(path)
        raise


def generations(path: Path) -> tuple[Path, Path]:
    """Return the paths of the backups of a store, the newer first."""
    return _sibling(path, "backup"), _sibling(path, "backup-1")


def _copy(path: Path, target: Path) -> None:
    _rename(_write_copy(path, target), target)


def _write_copy(path: Path, target: Path) -> Path:
    temporary = _sibling(target, "new")
    try:
        _create_private(temporary)
        with closing(connect(path, "?mode=rw")) as source:  # a missing file is not created
            source.execute("VACUUM INTO ?", (str(temporary),))
        if check(temporary) == 0:
            raise corrupt(path, "it is empty")
        _sync(temporary, os.O_RDWR)
    except BaseException:
        _delete_files(temporary)
        raise
    return temporary


def _create_private(path: Path) -> None:
    """Create an empty private file, and delete what a killed process left there.

    SQLite would use a leftover log or journal for the new file.
    """
    _delete_files(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _delete_files(path: Path) -> None:
    for part in reversed(_PARTS):
        Path(f"{path}{part}").unlink(missing_ok=True)


def _is_temporary(failure: Exception) -> bool:
    """Return whether a failure is temporary and unrelated to the file that was read: no space, or no permission."""
    if isinstance(failure, sqlite3.Error):
        return getattr(failure, "sqlite_errorcode", 0) & 0xFF in _TEMPORARY_SQLITE
    return isinstance(failure, OSError) and failure.errno in _TEMPORARY


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    _sync(target.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _loss(path: Path) -> str:
    """Return a description of the loss of a file; empty: it exists, or this is the first start.

    An absent or empty file is a loss if there are backups or a log.
    """
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
    """Rename the file and those that belong to it, and return the new path; ``None``: all were empty or absent."""
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
    yield _sibling(path, f"{why}-{stamp}")
    for number in range(2, 1000):
        yield _sibling(path, f"{why}-{stamp}-{number}")


def _restore(path: Path, problem: str) -> str:
    """Restore the newest undamaged backup to the path of the store, and return a description of it.

    Raises:
        OSError: a backup that may be undamaged cannot be restored now (``_TEMPORARY``).
        sqlite3.Error: for the same reason (``_TEMPORARY_SQLITE``).
    """
    for copy in generations(path):
        temporary = _sibling(path, "new")
        try:
            _create_private(temporary)
            shutil.copyfile(copy, temporary, follow_symlinks=False)
            check(temporary)
            with closing(connect(temporary)) as connection:
                _add_rebuild_entry(connection, problem)
            _sync(temporary, os.O_RDWR)
        except (OSError, sqlite3.Error, Error) as failure:
            _delete_files(temporary)
            if _is_temporary(failure):
                raise
            continue
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(copy.stat().st_mtime))
        _rename(temporary, path)
        return f"its copy of {written}"
    make_private(path)
    return "an empty one, as there is no good copy"


def _add_rebuild_entry(connection: sqlite3.Connection, problem: str) -> None:
    """Add the entry ``REBUILD`` to a restored backup, of any schema version."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, 0)", (REBUILD, problem.encode()))
    if "digest" in [column[1] for column in connection.execute("PRAGMA table_info(head)")]:
        stored = connection.execute("SELECT digest FROM head").fetchone()[0]
        digest = Digest(stored).add(REBUILD, problem.encode(), 0).stored()
        connection.execute("UPDATE head SET digest = ?", (digest,))
    connection.execute("COMMIT")
