"""The embedded store's file: its place, its owner, its schema, and what is refused."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.sqlite import file as sqlite_file
from tests.support.privileges import needs_other_users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sandnet.db"


def make_file(path: Path) -> None:
    sqlite_file.open_file(path).close()


def refusal(path: Path) -> Error:
    with pytest.raises(Error) as caught:
        sqlite_file.open_file(path)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert str(path.parent) in caught.value.message
    assert caught.value.hint
    return caught.value


def run(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_newer_schema_is_refused_with_both_versions_and_a_hint(path: Path) -> None:
    make_file(path)
    run(path, "PRAGMA user_version = 99")

    error = refusal(path)

    assert error.code == "store_newer"
    assert "99" in error.message
    assert str(len(sqlite_file.MIGRATIONS)) in error.message


def test_older_schema_runs_the_missing_migrations_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_file(path)
    step = ("CREATE TABLE notes (note TEXT)", "INSERT INTO notes VALUES ('seen')")
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, step))

    make_file(path)
    make_file(path)

    assert run(path, "SELECT note FROM notes") == [("seen",)]
    assert run(path, "PRAGMA user_version") == [(len(sqlite_file.MIGRATIONS),)]


def test_failed_migration_leaves_the_file_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_file(path)
    before = path.read_bytes()
    step = ("CREATE TABLE half (x)", "CREATE TABLE entries (x)")
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, step))

    refusal(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"garbage", bytes(range(256)) * 64, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_garbage_file_is_corrupt_and_left_unchanged(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)

    assert refusal(path).code == "store_corrupt"
    assert path.read_bytes() == content


def test_damaged_page_is_corrupt(path: Path) -> None:
    make_file(path)
    rows = ", ".join(f"('k/{n}', zeroblob(500), 1)" for n in range(100))
    run(path, f"INSERT INTO entries VALUES {rows}")
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xee" * 8192
    path.write_bytes(content)

    assert refusal(path).code == "store_corrupt"


def test_foreign_database_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    run(path, "CREATE TABLE bookmarks (url)")
    before = path.read_bytes()

    assert refusal(path).code == "store_foreign"

    assert path.read_bytes() == before


def test_created_directory_and_files_are_owner_only(path: Path) -> None:
    connection = sqlite_file.open_file(path)
    connection.execute("UPDATE head SET revision = 1")

    assert path.parent.stat().st_mode & 0o777 == 0o700
    made = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert made == dict.fromkeys(("sandnet.db", "sandnet.db-wal", "sandnet.db-shm"), 0o600)
    connection.close()


def test_wide_file_mode_is_narrowed(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o644)

    make_file(path)

    assert path.stat().st_mode & 0o777 == 0o600


def test_store_directory_writable_by_others_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)

    assert refusal(path).code == "store_not_private"


@needs_other_users
@pytest.mark.parametrize("foreign", ["directory", "file"])
def test_store_of_another_owner_is_refused(path: Path, foreign: str) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    os.chown(path.parent if foreign == "directory" else path, 12345, -1)

    assert refusal(path).code == "store_not_private"


def test_symlink_as_the_store_directory_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.parent.symlink_to(tmp_path / "elsewhere")

    refusal(path)

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_symlink_as_the_store_file_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")

    refusal(path)

    assert not (tmp_path / "elsewhere").exists()
