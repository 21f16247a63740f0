"""The file of the embedded store: its permissions, how it is opened and checked, and schema migrations."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.stores.sqlite.digest import CONTENT_DIGEST, Digest

APPLICATION_ID: Final = 0x736E6574
"""``snet`` in ASCII, at byte 68 of the file: distinguishes our files from other programs' databases."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE head (revision INTEGER NOT NULL)",
        "INSERT INTO head VALUES (0)",
        f"PRAGMA application_id = {APPLICATION_ID}",
    ),
    (
        "ALTER TABLE head ADD COLUMN digest BLOB NOT NULL DEFAULT x''",
        f"UPDATE head SET digest = ({CONTENT_DIGEST})",  # noqa: S608 - our own text
    ),
)
"""Statements that migrate schema version *n* (the index) to *n* + 1. New versions are appended; the others never
change."""

DIGEST_SINCE: Final = 2
"""First schema version with a checksum over the contents."""

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process that has locked the file, such as an administrator's ``sqlite3``."""

LOG_PAGES: Final = 10_000
"""Pages of the log (4 KiB each) at which a commit copies them into the file; usually ``SqliteStore`` does it before."""

CORRUPT: Final = "store_corrupt"
"""Error code for a damaged file."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ENVIRONMENT_ERRORS = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_AUTH,
)
"""Error codes that an undamaged file can cause. Any other error when reading the tables of a store means damage."""

BeforeMigration = Callable[[int], object]
"""Function that is called before a migration with the schema version of the file."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert exceptions of SQLite and the file system to ``Error`` of kind ``UNAVAILABLE``."""
    try:
        yield
    except sqlite3.Error as error:
        if _primary(error) in _DAMAGE:
            raise corrupt(path, str(error)) from error
        raise _unavailable(path, str(error)) from error
    except OSError as error:
        raise _unavailable(path, error.strerror or str(error)) from error


def open_file(path: Path, before: BeforeMigration | None = None) -> sqlite3.Connection:
    """Open the store at ``path`` and migrate its schema. File (0600) and directory (0700) are created if absent.

    Args:
        path: the file.
        before: called before a migration of an existing file.

    Raises:
        Error: kind ``UNAVAILABLE``: another user owns or may write the directory or the file, the file is damaged
            (code ``CORRUPT``; it is not changed), belongs to another program, was written by a newer sandnet, or
            cannot be opened.
    """
    with storage_errors(path):
        make_private(path)
        version = check(path)
        writer = connect(path)
        try:
            _write_ahead(writer, path)
            if before and 0 < version < len(MIGRATIONS):
                before(version)
            migrate(writer, path, MIGRATIONS)
            return writer
        except BaseException:
            writer.close()
            raise


def check(path: Path) -> int:
    """Read the whole file and verify its checksum.

    The connection is read-only: a writable one would checkpoint the log into the file when it is closed, and a damaged
    file must be kept unchanged.

    Returns:
        The schema version; 0: the file is empty.

    Raises:
        Error: kind ``UNAVAILABLE``; code ``CORRUPT`` when it is damaged, else as ``open_file``.
    """
    with closing(connect(path, "?mode=ro")) as connection:
        try:
            version = _version(connection, path)
            if version:
                _check_contents(connection, path, version)
        except sqlite3.Error as error:
            if _primary(error) in _ENVIRONMENT_ERRORS:
                raise
            raise corrupt(path, str(error)) from error
    return version


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Migrate the schema to version ``len(migrations)``, all steps in one transaction.

    Raises:
        Error: kind ``UNAVAILABLE``: the file has a newer version, or is no store of ours.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
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


def connect(path: Path, query: str = "") -> sqlite3.Connection:
    """Return a connection in autocommit mode, which one thread after another may use.

    Args:
        path: the file; created if absent, unless the query forbids it.
        query: parameters of the file's URI (sqlite.org/uri.html).
    """
    where = path.absolute().as_uri() + query
    connection = sqlite3.connect(where, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=True)
    connection.create_aggregate("content_digest", 3, Digest)  # type: ignore[arg-type]  # ``finalize`` gives bytes
    return connection


def corrupt(path: Path, why: str) -> Error:
    """Return the error for a damaged file."""
    hint = (
        "restart the daemon: it keeps the file aside, and goes on with the last good copy and what is in the kernel; "
        'see docs/operations.md, "A damaged state file"'
    )
    return Error(Kind.UNAVAILABLE, f"the store {path} is corrupt: {why}", hint, CORRUPT)


def _primary(error: sqlite3.Error) -> int:
    """Return SQLite's primary error code, the low byte of the code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version, application = (_pragma(connection, name) for name in ("user_version", "application_id"))
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables and version == application == 0:
        return 0
    if application != APPLICATION_ID and not {"entries", "head"} <= tables:
        hint = "name another file with --store, or move this one away"
        raise Error(Kind.UNAVAILABLE, f"{path} is the database of another program", hint, "store_foreign")
    if application != APPLICATION_ID or version < 1:
        raise corrupt(path, "its header is not the one it was written with")
    if version > len(MIGRATIONS):
        raise _newer(path, version, len(MIGRATIONS))
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _write_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Enable the write-ahead log: readers do not wait for the writer, and a commit is one write and one sync."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise _unavailable(path, "its file system cannot share memory, which a write-ahead log needs")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")


def _check_contents(connection: sqlite3.Connection, path: Path, version: int) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise corrupt(path, str(found))
    heads = connection.execute("SELECT * FROM head").fetchall()
    if len(heads) != 1 or len(heads[0]) != min(version, DIGEST_SINCE):
        raise corrupt(path, "its revision is missing")
    if version >= DIGEST_SINCE and heads[0][1] != connection.execute(CONTENT_DIGEST).fetchone()[0]:
        raise corrupt(path, "its content does not match its checksum")


def make_private(path: Path) -> None:
    """Create directory and file if absent; refuse them if another user owns them or may write to the directory."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(directory)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise _not_private(path.parent)
        _make_private_file(path, directory)
        os.fsync(directory)  # else a crash may lose the directory entry of a file whose content is durable
    finally:
        os.close(directory)


def _make_private_file(path: Path, directory: int) -> None:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path.name, flags, 0o600, dir_fd=directory)
    except IsADirectoryError as error:
        hint = "move it away, or name another file with --store"
        raise Error(Kind.UNAVAILABLE, f"the store {path} is a directory", hint, "store_not_a_file") from error
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


def _newer(path: Path, version: int, known: int) -> Error:
    message = f"the store {path} has schema version {version}; this sandnet knows versions up to {known}"
    hint = (
        f"start the newer sandnet that wrote it; or put back a copy that this one knows, as {path}.schema-{known}; "
        "or move the file and its -wal and -shm files away: what is in the kernel is found again"
    )
    return Error(Kind.UNAVAILABLE, message, hint, "store_newer")
