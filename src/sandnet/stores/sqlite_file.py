"""The embedded store's file: where it may lie, how it is opened, and how its schema moves forward."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind

APPLICATION_ID: Final = 0x736E6574
"""``snet`` in ASCII, at byte 68 of the file: tells our files from other programs' databases."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE head (revision INTEGER NOT NULL)",
        "INSERT INTO head VALUES (0)",
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
)
"""Statements that lead from schema version *n* (the index) to *n* + 1. Only ever appended to."""

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process that has the file open, as an administrator's ``sqlite3`` may."""

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Connections(NamedTuple):
    """The two ways into the file; each is used by one thread at a time."""

    writer: sqlite3.Connection
    reader: sqlite3.Connection


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into ``Error`` of kind ``UNAVAILABLE``."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:  # the low byte is the primary code
            raise _corrupt(path, str(error)) from error
        raise _unavailable(path, str(error)) from error
    except OSError as error:
        raise _unavailable(path, error.strerror or str(error)) from error


def open_file(path: Path) -> Connections:
    """Open the store at ``path``, made if absent (0600), its directory too (0700), its schema up to date.

    Raises:
        Error: kind ``UNAVAILABLE``: the directory or the file is not ours alone, the file is corrupt, is another
            program's, was written by a newer sandnet, or cannot be opened.
    """
    with storage_errors(path):
        _make_private(path)
        writer = _connect(path)
        try:
            _version(writer, path)  # before anything is changed in what may be another program's
            _check_whole(writer, path)
            _write_ahead(writer, path)
            migrate(writer, path, MIGRATIONS)
            return Connections(writer, _connect(path))
        except BaseException:
            writer.close()
            raise


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Bring the schema to the version ``len(migrations)``, all steps in one transaction.

    Raises:
        Error: kind ``UNAVAILABLE``: the file is of a newer version, or no store of ours.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        if version > len(migrations):
            raise _newer(path, version, len(migrations))
        for step in migrations[version:]:
            for statement in step:
                connection.execute(statement)
        if version < len(migrations):
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version, application = (_pragma(connection, name) for name in ("user_version", "application_id"))
    new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and not (new and version == application == 0):
        hint = "name another file with --store, or move this one away"
        raise Error(Kind.UNAVAILABLE, f"{path} is the database of another program", hint, "store_foreign")
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit, for whichever thread uses it next."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """With a write-ahead log readers need not wait for the writer, and a commit is one write and one sync."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise _unavailable(path, "its file system cannot share memory, which a write-ahead log needs")
    connection.execute("PRAGMA synchronous = FULL")


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _corrupt(path, str(found))


def _make_private(path: Path) -> None:
    """Make directory and file where they are absent, and refuse them where somebody else could have made them."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(directory)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise _not_private(path.parent)
        _make_private_file(path, directory)
        os.fsync(directory)  # else a crash may forget the name of a file whose content was made durable
    finally:
        os.close(directory)


def _make_private_file(path: Path, directory: int) -> None:
    file = os.open(path.name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        info = os.fstat(file)
        if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
            raise _not_private(path)
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


def _unavailable(path: Path, why: str) -> Error:
    hint = f"check the space and the permissions of {path.parent}, which must be on a local file system"
    return Error(Kind.UNAVAILABLE, f"the store {path} cannot be used: {why}", hint, "store_unavailable")


def _not_private(path: Path) -> Error:
    hint = f"look who made it and what is in it, then chown it to uid {os.geteuid()} and chmod go-w, or name another"
    message = f"{path} is not ours alone: another user owns it or may write to it"
    return Error(Kind.UNAVAILABLE, message, hint, "store_not_private")


def _corrupt(path: Path, why: str) -> Error:
    hint = f"restore {path} from a copy, or move it and its -wal and -shm files away to start with an empty store"
    return Error(Kind.UNAVAILABLE, f"the store {path} is corrupt: {why}", hint, "store_corrupt")


def _newer(path: Path, version: int, known: int) -> Error:
    message = f"the store {path} has schema version {version}; this sandnet knows versions up to {known}"
    hint = (
        "start the newer sandnet that wrote it; or run its `sandnet down`, move the file and its -wal and -shm files "
        "away, and start this one with an empty store"
    )
    return Error(Kind.UNAVAILABLE, message, hint, "store_newer")
