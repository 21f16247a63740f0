"""Damage to the embedded store's file: noticed, kept aside, and replaced by the last good copy."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandnet.core.state.events import Events
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind
from sandnet.stores.base import REBUILD, Change, Changed, Delete, Entry, Put
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite import file as sqlite_file
from sandnet.stores.sqlite import recovery
from sandnet.stores.sqlite.rows import write
from sandnet.stores.sqlite.store import SqliteStore
from tests.support.examples import examples
from tests.unit.stores.sqlite.test_file import run

DATA = Path(__file__).parents[3] / "data"
SCHEMAS = [number for number, _ in enumerate(sqlite_file.MIGRATIONS, 1)]
Content = dict[str, bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sandnet.db"


@contextmanager
def writing(path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """One that writes and one that reads; afterwards the files stay as a crash leaves them, the log included."""
    connections = sqlite_file.open_file(path), sqlite_file.connect(path)
    try:
        yield connections
        frozen = path.with_name("frozen")
        shutil.copytree(path.parent, frozen, ignore=shutil.ignore_patterns("frozen", "*-shm"))
    finally:
        for each in reversed(connections):
            each.close()
    for file in frozen.iterdir():
        shutil.copyfile(file, path.with_name(file.name))
    shutil.rmtree(frozen)


def history(path: Path, commits: int = 40) -> list[Content]:
    """What the store held after each of some commits, the last of which are in the log alone."""
    states: list[Content] = [{}]
    held = Contents()
    with writing(path) as (connection, reader):
        for number in range(commits):
            if number == commits // 2:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if number == commits * 3 // 4:  # the database is ahead of the log's beginning, which has to stay
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM head").fetchall()
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            key, value = f"k/{number % 17}", bytes([number]) * (50 + 97 * number % 1500)
            now = {**states[-1], key: value}
            changes: list[Change] = [Put(key, value)]
            if number % 5 == 4:
                now.pop(f"k/{number % 7}", None)
                changes = [*(change for change in changes if change.key in now), Delete(f"k/{number % 7}")]
            (outcome,) = write(connection, held, [tuple(changes)], durable=True)
            assert isinstance(outcome, Changed)
            held.apply(outcome)
            states.append(now)
    return states


def content(path: Path) -> Content:
    """What is in the store now, after it was opened as the daemon opens it."""
    opened = recovery.open_or_salvage(path)
    found = dict(opened.connection.execute("SELECT key, value FROM entries"))
    opened.connection.close()
    found.pop(REBUILD, None)
    return found


def kept(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if ".damaged-" in each.name)


# Any damage at all.


def _damaged(data: bytes, how: str, where: float, length: int, seed: bytes) -> bytes:
    at = int(where * len(data))
    if how == "cut":
        return data[:at]
    page = at - at % 4096
    start, end = (page, page + 4096) if length > 64 else (at, at + length)
    filler = {"zero": bytes(end - start), "random": (seed * (end - start))[: end - start]}[how]
    return data[:start] + filler[: max(0, len(data) - start)] + data[end:]


class Written:
    """A store that was written to, and all it ever held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states = history(path)


@pytest.fixture(scope="module")
def written() -> Iterator[Written]:
    with TemporaryDirectory() as folder:
        yield Written(Path(folder, "state", "sandnet.db"))


@settings(max_examples=examples(120), deadline=None)
@given(
    suffix=st.sampled_from(["", "", "-wal"]),
    how=st.sampled_from(["cut", "zero", "random"]),
    where=st.floats(0, 1, exclude_max=True),
    length=st.integers(1, 128),
    seed=st.binary(min_size=1, max_size=64),
)
def test_any_damage_opens_a_former_state_or_keeps_the_file_aside(
    written: Written, suffix: str, how: str, where: float, length: int, seed: bytes
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "state", written.path.name)
        shutil.copytree(written.path.parent, path.parent)
        victim = Path(f"{path}{suffix}")
        victim.write_bytes(_damaged(victim.read_bytes(), how, where, length, seed))
        before = {part: Path(f"{path}{part}").read_bytes() for part in ("", "-wal")}
        found = content_or_code(path)
        if isinstance(found, str):  # a header that names another version or program: nothing is touched
            assert found in ("store_newer", "store_foreign")
            assert path.read_bytes() == before[""]
            return
        aside = kept(path)
        assert found in written.states if not aside else found == {}
        for name in (each for each in aside if not each.endswith("-shm")):  # which is memory, and no state
            assert path.with_name(name).read_bytes() == before["-wal" if name.endswith("-wal") else ""]


def content_or_code(path: Path) -> Content | str:
    try:
        return content(path)
    except Error as refusal:
        return refusal.code


def test_wal_missing_its_middle_never_yields_a_mixed_state(
    path: Path,
) -> None:
    states = history(path)
    log = Path(f"{path}-wal")
    whole = log.read_bytes()
    mixtures = 0
    for frame in range(1, (len(whole) - 32) // 4120):
        copy = path.parent.parent / f"copy{frame}" / path.name
        shutil.copytree(path.parent, copy.parent)
        at = 32 + 4120 * frame
        Path(f"{copy}-wal").write_bytes(whole[:at] + bytes(4120) + whole[at + 4120 :])
        found = content(copy)
        mixtures += bool(kept(copy))
        assert found in states if not kept(copy) else found == {}
    assert mixtures  # quick_check alone finds nothing wrong with some of them


def test_changed_value_is_detected_as_damage(path: Path) -> None:
    history(path)
    run(path, "UPDATE entries SET value = x'00' WHERE key = 'k/3'")

    assert content(path) == {}
    assert kept(path)


# What takes its place.


def test_damaged_file_is_replaced_by_its_backup_and_reported(path: Path) -> None:
    history(path)
    recovery.write_backup(path)
    backed = content(path)
    path.write_bytes(b"\0" * path.stat().st_size)

    opened = recovery.open_or_salvage(path)
    marked = opened.connection.execute("SELECT value FROM entries WHERE key = ?", (REBUILD,)).fetchone()
    opened.connection.close()

    (reported,) = opened.problems
    assert "is corrupt" in reported
    assert "its copy of" in reported
    assert b"is corrupt" in marked[0]
    assert content(path) == backed
    assert all(re.fullmatch(r"sandnet\.db\.damaged-\d{8}T\d{6}Z(-wal|-shm)?", name) for name in kept(path))
    assert kept(path)[0] in reported


def test_damaged_backup_falls_back_to_the_previous_generation(path: Path) -> None:
    with writing(path) as (connection, _reader):
        write(connection, Contents(), [(Put("a", b"1"),)], durable=True)
    recovery.write_backup(path)
    recovery.write_backup(path)
    newer, older = recovery.generations(path)
    newer.write_bytes(older.read_bytes()[:5000])
    path.write_bytes(b"")

    assert content(path) == {"a": b"1"}


@pytest.mark.parametrize("gone", [("",), ("", "-wal"), ("", "-wal", "-shm")])
def test_missing_file_with_a_backup_is_a_loss_and_no_first_start(path: Path, gone: tuple[str, ...]) -> None:
    history(path)
    recovery.write_backup(path)
    whole = content(path)
    for suffix in gone:
        Path(f"{path}{suffix}").unlink(missing_ok=True)

    opened = recovery.open_or_salvage(path)
    opened.connection.close()

    assert "is gone" in opened.problems[0]
    assert content(path) == whole


def test_damaged_file_without_a_backup_opens_an_empty_store(path: Path) -> None:
    history(path)
    path.write_bytes(b"nonsense" * 1000)
    Path(f"{path}-wal").unlink()

    opened = recovery.open_or_salvage(path)
    assert "an empty one" in opened.problems[0]
    opened.connection.close()
    again = recovery.open_or_salvage(path)
    again.connection.close()
    assert again.problems == ()


@pytest.mark.parametrize("left", ["-journal", "-wal"])
def test_leftovers_of_a_killed_writer_do_not_reach_the_backup(path: Path, left: str) -> None:
    """A daemon that was putting the copy back leaves a journal, an import that never was leaves a log."""
    history(path)
    recovery.write_backup(path)
    whole = content(path)
    half = path.with_name("sandnet.db.new")
    if left == "-journal":
        shutil.copyfile(recovery.generations(path)[0], half)
    _killed_while_writing(half)
    assert Path(f"{half}{left}").stat().st_size
    path.write_bytes(b"nonsense" * 1000)

    assert content(path) == whole
    assert not list(path.parent.glob("*.new*"))


def _killed_while_writing(half: Path) -> None:
    """A process writes to the file, as an import does where there was none, and is killed before it closes it."""
    child = os.fork()
    if child == 0:
        connection = sqlite_file.open_file(half) if not half.exists() else sqlite_file.connect(half)
        connection.execute("PRAGMA cache_size = 1")  # pages are written before the end of the transaction
        connection.execute("BEGIN IMMEDIATE")
        rows = [(f"imported/{number}", bytes(4000)) for number in range(50)]
        connection.executemany("INSERT INTO entries VALUES (?, ?, 1)", rows)
        connection.execute("UPDATE entries SET value = x'01'")
        if Path(f"{half}-wal").exists():
            connection.execute("COMMIT")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_backup_without_room_is_reported_and_restored_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history(path)
    recovery.write_backup(path)
    whole = content(path)
    path.write_bytes(b"nonsense" * 1000)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(Error, match="No space left"):
            recovery.open_or_salvage(path)

    assert content(path) == whole


def test_damage_twice_within_a_second_keeps_both_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20261123T101500Z")
    for number in (1, 2):
        content(path)
        path.write_bytes(b"nonsense" * number)
        content(path)

    assert kept(path) == ["sandnet.db.damaged-20261123T101500Z", "sandnet.db.damaged-20261123T101500Z-2"]


def test_backup_of_a_damaged_store_keeps_the_good_backups(path: Path) -> None:
    history(path)
    recovery.write_backup(path)
    before = recovery.generations(path)[0].read_bytes()
    run(path, "UPDATE entries SET value = x'00' WHERE key = 'k/3'")

    with pytest.raises(Error) as caught:
        recovery.write_backup(path)

    assert caught.value.code == sqlite_file.CORRUPT
    assert [each.exists() for each in recovery.generations(path)] == [True, False]
    assert recovery.generations(path)[0].read_bytes() == before
    assert not list(path.parent.glob("*.new"))


def test_backup_is_readable_by_the_owner_only(path: Path) -> None:
    history(path)
    recovery.write_backup(path)
    recovery.write_backup(path)

    assert [each.stat().st_mode & 0o777 for each in recovery.generations(path)] == [0o600, 0o600]


# While it is in use.


async def test_closing_the_store_backs_up_the_last_change(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Put("a", b"1"))
    await store.close()
    shutil.copyfile(recovery.generations(path)[0], path)

    again = SqliteStore(path)
    await again.open()
    assert await again.get("a") == Entry("a", b"1", 1)
    assert again.problems() == []
    await again.close()


# Schema versions.


def old_store(path: Path, version: int) -> None:
    path.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((DATA / f"schema-{version}.sql").read_text())
    connection.close()


@pytest.mark.parametrize("version", SCHEMAS[:-1])
async def test_store_upgrade_keeps_every_record_and_a_backup(path: Path, version: int) -> None:
    old_store(path, version)
    store = SqliteStore(path)
    await store.open()
    records = Records(store, Events())
    await records.load()
    (network,), (endpoint,) = records.networks(), records.endpoints()
    (sandbox,), (attachment,) = records.sandboxes(), records.attachments()

    assert (network.name, endpoint.name, sandbox.container_id) == ("blue", "web", "web-1")
    assert (endpoint.labels, endpoint.ports[0].host_port) == ({"tier": "front"}, 8080)
    assert (str(attachment.address), attachment.interface) == ("172.16.1.2/24", "eth0")
    assert records.cursor(network.id) == "172.16.1.2"
    assert await store.commit(Put("next", b"")) == 7
    await store.close()
    assert run(path, "PRAGMA user_version") == [(SCHEMAS[-1],)]
    assert run(path.with_name(f"sandnet.db.schema-{version}"), "PRAGMA user_version") == [(version,)]


@pytest.mark.parametrize("version", SCHEMAS[:-1])
def test_failed_upgrade_leaves_store_unchanged_and_opens_later(
    path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_store(path, version)
    whole = run(path, "SELECT * FROM entries")
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, ("CREATE TABLE entries (x)",)))
        with pytest.raises(Error) as caught:
            recovery.open_or_salvage(path)
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "store_unavailable")
    assert run(path, "PRAGMA user_version") == [(version,)]
    assert kept(path) == []

    assert content(path) == {key: value for key, value, _ in whole}


def test_every_earlier_version_has_a_test_store() -> None:
    assert [f"schema-{version}.sql" for version in SCHEMAS[:-1]] == sorted(
        each.name for each in DATA.glob("schema-*.sql")
    )
