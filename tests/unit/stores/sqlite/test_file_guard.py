"""The state file is broken while it is in use: it is written again, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.base import Delete, Entry, Put
from sandnet.stores.contents import Contents
from sandnet.stores.sqlite import recovery, rows
from sandnet.stores.sqlite.file_guard import FileGuard
from sandnet.stores.sqlite.store import SqliteStore
from tests.unit.stores.sqlite.test_file import run

Break = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sandnet.db"


def part(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def overwritten(path: Path, suffix: str, content: bytes) -> None:
    """In place, and with another time than the one it had."""
    with part(path, suffix).open("r+b") as file:
        file.write(content)
    info = part(path, suffix).stat()
    os.utime(part(path, suffix), ns=(info.st_atime_ns, info.st_mtime_ns + 1))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    run(other, "CREATE TABLE bookmarks (url)")
    os.replace(other, path)


def replaced_by_an_older_one(path: Path) -> None:
    os.replace(recovery.generations(path)[0], path)


def all_deleted(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()


def changed_by_hand(path: Path) -> None:
    run(path, "UPDATE entries SET value = x'00' WHERE key = 'a'")


BREAKS: dict[str, tuple[Break, str]] = {
    "file deleted": (lambda path: path.unlink(), "the file is gone"),
    "file moved away": (lambda path: path.rename(path.with_name("elsewhere")), "the file is gone"),
    "file replaced": (replaced, "the file is another file"),
    "file replaced by a copy": (replaced_by_an_older_one, "the file is another file"),
    "file cut": (lambda path: os.truncate(path, 0), "the file was cut short"),
    "file overwritten": (lambda path: overwritten(path, "", b"nonsense" * 512), "written to by another program"),
    "log deleted": (lambda path: part(path, "-wal").unlink(), "its log (-wal) is gone"),
    "log cut": (lambda path: os.truncate(part(path, "-wal"), 0), "its log (-wal) was cut short"),
    "log overwritten": (lambda path: overwritten(path, "-wal", bytes(8192)), "written to by another program"),
    "index deleted": (lambda path: part(path, "-shm").unlink(), "its index (-shm) is gone"),
    "index cut": (lambda path: os.truncate(part(path, "-shm"), 0), "its index (-shm) was cut short"),
    "all deleted": (all_deleted, "the file is gone"),
    "directory deleted": (lambda path: shutil.rmtree(path.parent), "the file is gone"),
    "directory moved away": (lambda path: path.parent.rename(path.parent.with_name("elsewhere")), "the file is gone"),
    "changed by hand": (changed_by_hand, "written to by another program"),
}


@pytest.fixture(params=BREAKS)
def broken(request: pytest.FixtureRequest) -> tuple[Break, str]:
    return BREAKS[request.param]


async def opened(path: Path) -> SqliteStore:
    """With something in it, of which a copy is beside it."""
    store = SqliteStore(path)
    await store.open()
    await store.commit(Put("a", b"1"), Put("gone", b""))
    recovery.write_backup(path)
    await store.commit(Put("b", b"2"), Delete("gone"))
    return store


def kept_by_a_crash(path: Path) -> list[Entry]:
    """What a start finds when the daemon is killed now: the file and its log, and nothing that is in memory."""
    copy = path.parent.parent / "killed"
    shutil.copytree(path.parent, copy, ignore=shutil.ignore_patterns("*-shm"))
    found = FileGuard(copy / path.name)
    contents, problems = found.open()
    found.close(contents)
    assert problems == ()
    shutil.rmtree(copy)
    return list(contents.list(""))


async def test_repair_after_any_break_restores_file_and_reports_once(path: Path, broken: tuple[Break, str]) -> None:
    store = await opened(path)
    break_it, problem = broken
    break_it(path)

    (reported,) = await store.verify()

    assert reported.place == str(path)
    assert problem in reported.problem
    assert kept_by_a_crash(path) == [Entry("a", b"1", 1), Entry("b", b"2", 2)]
    assert await store.verify() == []
    assert store.problems() == []
    assert await store.commit(Put("c", b"3", expect=0)) == 3
    assert kept_by_a_crash(path)[-1] == Entry("c", b"3", 3)
    assert path.stat().st_mode & 0o777 == 0o600
    await store.close()
    assert run(path, "SELECT key FROM entries ORDER BY key") == [("a",), ("b",), ("c",)]


async def test_commit_after_any_break_is_in_the_current_file(path: Path, broken: tuple[Break, str]) -> None:
    store = await opened(path)
    broken[0](path)

    assert await store.commit(Put("c", b"3", expect=0), Delete("a", expect=1)) == 3

    assert kept_by_a_crash(path) == [Entry("b", b"2", 2), Entry("c", b"3", 3)]
    assert len(await store.verify()) == 1
    await store.close()


async def test_commit_during_a_break_is_in_the_current_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(path)
    real = rows.write

    def write(connection: sqlite3.Connection, *args: object, **options: object) -> object:
        done = real(connection, *args, **options)  # type: ignore[arg-type]
        path.unlink()
        return done

    monkeypatch.setattr(rows, "write", write)
    await store.commit(Put("c", b"3"))
    monkeypatch.undo()

    assert kept_by_a_crash(path)[-1] == Entry("c", b"3", 3)
    await store.close()


async def test_reading_the_file_reports_no_problem(path: Path) -> None:
    store = await opened(path)
    run(path, "SELECT * FROM entries")
    recovery.read_all(path)
    recovery.write_backup(path)
    os.link(path, path.with_name("linked"))

    assert await store.verify() == []
    await store.close()


async def test_damage_found_by_a_backup_is_repaired(path: Path) -> None:
    store = await opened(path)
    store._backups.damage = "the store is corrupt"

    (reported,) = await store.verify()

    assert reported.problem.startswith("the store is corrupt; what was there is kept as ")
    assert await store.verify() == []
    await store.close()


async def test_unwritable_file_refuses_changes_until_it_can_be_written(path: Path) -> None:
    store = await opened(path)
    shutil.rmtree(path.parent)
    path.parent.write_text("a file in the directory's place")

    assert await store.verify() == []
    (problem,) = store.problems()
    assert "cannot be written again" in problem
    with pytest.raises(Error) as refused:
        await store.commit(Put("c", b"3"))
    assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, "store_unavailable")
    assert await store.list("") == [Entry("a", b"1", 1), Entry("b", b"2", 2)]

    path.parent.unlink()
    assert len(await store.verify()) == 1
    assert await store.commit(Put("c", b"3")) == 3
    assert store.problems() == []
    assert [entry.key for entry in kept_by_a_crash(path)] == ["a", "b", "c"]
    await store.close()


async def test_closing_right_after_a_break_leaves_the_file_whole(path: Path) -> None:
    store = await opened(path)
    path.unlink()
    await store.close()

    again = SqliteStore(path)
    await again.open()
    assert [entry.key for entry in await again.list("")] == ["a", "b"]
    assert again.problems() == []
    await again.close()


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """Lets a process make so many changes of files, and none afterwards, whatever it tries to tidy up."""

    def __init__(self, patched: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        for name in ("rename", "replace", "fsync", "open", "unlink"):
            patched.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return real(*args, **options)

        return step


def killed(path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection | None:
    """Kill a repair of a sound file, which another program only touched, after so many steps.

    Returns:
        What it leaves open; ``None``: it came to its end.
    """
    file = FileGuard(path)
    before, _ = file.open()
    file.write(before, [(Put("a", b"1"),)], durable=True)
    overwritten(path, "", b"")
    contents = Contents([Entry("a", b"1", 1)], 1)
    with monkeypatch.context() as patched:
        Mortal(patched, steps)
        try:
            file.verify(contents)
        except Killed:
            return file._connection
    file.close(contents)
    return None


def test_daemon_killed_at_any_point_of_the_repair_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    while left := killed(path := tmp_path / str(steps) / "sandnet.db", steps, monkeypatch):
        assert kept_by_a_crash(path) == [Entry("a", b"1", 1)]
        left.close()
        steps += 1
    assert steps > 8


def synced(path: Path) -> list[tuple[object, ...]]:
    """What is in the file itself, without its log."""
    copy = path.parent.parent / "alone" / path.name
    copy.parent.mkdir()
    shutil.copyfile(path, copy)
    found = run(copy, "SELECT key, value, revision FROM entries ORDER BY key")
    shutil.rmtree(copy.parent)
    return found


def test_checkpoint_copies_the_log_and_is_no_foreign_change(path: Path) -> None:
    file = FileGuard(path)
    before, _ = file.open()
    file.write(before, [(Put("a", b"1"),)], durable=False)
    contents = Contents([Entry("a", b"1", 1)], 1)
    file.checkpoint()
    assert synced(path) == [Entry("a", b"1", 1)]
    file.verify(contents)
    assert file.take_repaired() == []
    file.close(contents)


def test_checkpoint_leaves_a_repair_to_the_next_check(path: Path, broken: tuple[Break, str]) -> None:
    file = FileGuard(path)
    before, _ = file.open()
    file.write(before, [(Put("a", b"1"),)], durable=True)
    recovery.write_backup(path)
    contents = Contents([Entry("a", b"1", 1)], 1)
    broken[0](path)
    file.checkpoint()
    assert file.take_repaired() == []
    file.verify(contents)
    assert len(file.take_repaired()) == 1
    assert synced(path) == [Entry("a", b"1", 1)]
    file.close(contents)


def test_checkpoint_beside_a_reader_syncs_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FileGuard(path)
    before, _ = file.open()
    reader = sqlite3.connect(path)
    reader.execute("BEGIN").connection.execute("SELECT * FROM entries").fetchall()
    file.write(before, [(Put("a", b"after the reader"),)], durable=False)
    synced_files: list[str] = []
    fdatasync = os.fdatasync

    def sync(number: int) -> None:
        synced_files.append(os.readlink(f"/proc/self/fd/{number}"))
        fdatasync(number)

    monkeypatch.setattr(os, "fdatasync", sync)
    contents = Contents([Entry("a", b"after the reader", 1)], 1)
    file.checkpoint()
    assert synced_files == [f"{path}-wal"]
    assert b"after the reader" not in path.read_bytes()
    reader.close()
    file.close(contents)
