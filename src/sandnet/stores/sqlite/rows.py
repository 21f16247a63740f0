"""The tables of the embedded store: they are read as a whole and written in batches of commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from sandnet.stores.base import Change, Changed, Conflict, Entry, Put
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite.digest import Digest

Changes = tuple[Change, ...]
Outcome = Changed | BaseException
Outcomes = list[Outcome]


def read(connection: sqlite3.Connection) -> Contents:
    """Return the whole contents. No other thread may write at the same time."""
    revision = int(connection.execute("SELECT revision FROM head").fetchone()[0])
    return Contents(map(Entry._make, connection.execute("SELECT key, value, revision FROM entries")), revision)


def write(connection: sqlite3.Connection, contents: Contents, batch: Sequence[Changes], *, durable: bool) -> Outcomes:
    """Write a batch of commits in one transaction (group commit), and return an outcome for each.

    A commit whose expectation fails does not affect the others. In WAL mode, NORMAL postpones the sync to a later
    commit (sqlite.org/pragma.html#pragma_synchronous).

    Args:
        connection: to the file.
        contents: its contents before the batch; they are not modified.
        batch: what to write.
        durable: whether the batch must survive a crash of the machine.
    """
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = _write(connection, contents, batch)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _write(connection: sqlite3.Connection, contents: Contents, batch: Sequence[Changes]) -> Outcomes:
    (stored,) = connection.execute("SELECT digest FROM head").fetchone()
    head, digest, outcomes = contents.revision, Digest(stored), Outcomes()
    found: dict[str, Entry | None] = {}
    for changes in batch:
        for change in changes:
            found.setdefault(change.key, contents.get(change.key))
        conflict = _conflict(found, changes)
        if conflict is None:
            head += 1
        outcomes.append(conflict or _apply(connection, found, changes, head, digest))
    if head != contents.revision:
        digest.remove("", b"", contents.revision).add("", b"", head)
        connection.execute("UPDATE head SET revision = ?, digest = ?", (head, digest.stored()))
    return outcomes


def _conflict(found: Mapping[str, Entry | None], changes: Changes) -> Conflict | None:
    for change in changes:
        before = found[change.key]
        if change.expect is not None and change.expect != (before.revision if before else 0):
            return Conflict(change.key)
    return None


def _apply(
    connection: sqlite3.Connection, found: dict[str, Entry | None], changes: Changes, revision: int, digest: Digest
) -> Changed:
    puts, deletes = [], []
    for change in changes:
        before = found[change.key]
        if before:
            digest.remove(*before)
        if isinstance(change, Put):
            puts.append(Entry(change.key, change.value, revision))
            digest.add(*puts[-1])
        elif before:
            deletes.append(change.key)
    connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", puts)
    connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in deletes])
    found.update({entry.key: entry for entry in puts} | dict.fromkeys(deletes))
    return Changed(tuple(puts), tuple(deletes), revision)
