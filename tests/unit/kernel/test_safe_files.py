"""Files at paths that strangers name: atomic, contained, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.safe_files import MAX_READ, Files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "allowed"


@pytest.fixture
def files(root: Path) -> Files:
    return Files([str(root)])


def test_write_below_the_root_is_complete_readable_and_alone(files: Files, root: Path) -> None:
    files.write(f"{root}/a/b/hosts", b"one")
    files.write(f"{root}/a/b/hosts", b"two")
    target = root / "a/b/hosts"
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["hosts"]


@pytest.mark.parametrize(
    "path", ["/etc/hosts", "{root}/../x", "relative", "{root}", "{root}/a\0b", "{root}-other/x", "//etc/hosts", ""]
)
def test_path_outside_the_root_is_refused(files: Files, root: Path, path: str) -> None:
    with pytest.raises(Error) as caught:
        files.write(path.format(root=root), b"")
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "path_not_allowed")


@pytest.mark.parametrize("what", ["directory", "symlink", "fifo"])
def test_foreign_object_at_the_path_is_refused_and_stays(files: Files, root: Path, what: str) -> None:
    victim = root.parent / "victim"
    victim.write_text("mine")
    place = root / "hosts"
    root.mkdir()
    match what:
        case "directory":
            place.mkdir()
        case "symlink":
            place.symlink_to(victim)
        case _:
            os.mkfifo(place)
    with pytest.raises(Error) as caught:
        files.write(str(place), b"x")
    files.remove(str(place))
    assert caught.value.kind is Kind.INVALID
    assert os.path.lexists(place)
    assert victim.read_text() == "mine"


def test_nothing_is_written_through_a_symlinked_parent(files: Files, root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    with pytest.raises(Error):
        files.write(f"{root}/link/hosts", b"x")
    assert list(elsewhere.iterdir()) == []


def test_missing_parent_directories_are_listed(files: Files, root: Path) -> None:
    assert files.missing_directories(f"{root}/a/b/hosts") == [f"{root}/a", f"{root}/a/b"]
    (root / "a").mkdir(parents=True)
    assert files.missing_directories(f"{root}/a/b/hosts") == [f"{root}/a/b"]
    assert files.missing_directories(f"{root}/a/hosts") == []
    assert files.missing_directories(f"{root}/hosts") == []


def test_only_empty_own_directories_are_removed(files: Files, root: Path) -> None:
    files.write(f"{root}/a/b/hosts", b"x")
    for directory in (f"{root}/a/b", f"{root}/a", f"{root}/gone/away"):
        files.remove_directory(directory)
    assert (root / "a/b/hosts").exists()
    files.remove(f"{root}/a/b/hosts")
    for directory in (f"{root}/a/b", f"{root}/a"):
        files.remove_directory(directory)
    assert list(root.iterdir()) == []
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    files.remove_directory(f"{root}/../elsewhere")
    assert elsewhere.exists()


def test_removal_cleans_up_after_a_writer_killed_before_rename(files: Files, root: Path) -> None:
    files.write(f"{root}/c/hosts", b"x")
    (root / "c/hosts").rename(root / "c/.hosts.sandnet")
    files.remove(f"{root}/c/hosts", prune=True)
    assert list(root.iterdir()) == []


def test_write_succeeds_after_a_writer_killed_before_rename(files: Files, root: Path) -> None:
    (root / "c").mkdir(parents=True)
    (root / "c/.hosts.sandnet").write_text("half")
    files.write(f"{root}/c/hosts", b"whole")
    assert [path.name for path in (root / "c").iterdir()] == ["hosts"]


def test_removal_keeps_a_directory_that_holds_another_file(files: Files, root: Path) -> None:
    files.write(f"{root}/c/hosts", b"x")
    (root / "c/else").write_text("")
    files.remove(f"{root}/c/hosts", prune=True)
    files.remove(f"{root}/c/hosts", prune=True)
    assert [path.name for path in (root / "c").iterdir()] == ["else"]


def test_read_without_a_file_is_none_and_follows_no_symlink(files: Files, root: Path) -> None:
    root.mkdir()
    (root / "link").symlink_to("/etc/hostname")
    assert files.read(f"{root}/nothing") is None
    assert files.read(f"{root}/link") is None


def test_foreign_file_set_aside_is_restored_unchanged(files: Files, root: Path) -> None:
    place = root / "a/hosts"
    place.parent.mkdir(parents=True)
    place.write_text("theirs")
    place.chmod(0o600)
    inode = place.stat().st_ino
    assert files.has_foreign_file(str(place))
    for _ in range(2):  # a killed writer's successor does it again
        files.set_aside(str(place))
        files.write(str(place), b"ours")
    assert files.has_foreign_file(str(place))
    for _ in range(2):
        files.restore_original(str(place))
        assert (place.read_text(), place.stat().st_ino, place.stat().st_mode & 0o777) == ("theirs", inode, 0o600)
    assert [path.name for path in place.parent.iterdir()] == ["hosts"]


def test_file_set_aside_is_restored_if_ours_was_never_written(files: Files, root: Path) -> None:
    place = root / "hosts"
    root.mkdir()
    place.write_text("theirs")
    files.set_aside(str(place))
    assert not place.exists()
    assert files.has_foreign_file(str(place))
    files.restore_original(str(place))
    assert place.read_text() == "theirs"


def test_restoring_nothing_changes_nothing(files: Files, root: Path) -> None:
    for path in (f"{root}/hosts", f"{root}/none/hosts", "/etc/hosts"):
        assert not files.has_foreign_file(path) or path == "/etc/hosts"
        files.restore_original(path)
        files.discard_original(path)
    root.mkdir()
    (root / "hosts").write_text("ours")
    files.restore_original(f"{root}/hosts")
    assert (root / "hosts").read_text() == "ours"


def test_restoring_onto_a_directory_keeps_both(files: Files, root: Path) -> None:
    root.mkdir()
    (root / "hosts").write_text("theirs")
    files.set_aside(f"{root}/hosts")
    (root / "hosts").mkdir()
    files.restore_original(f"{root}/hosts")
    assert (root / ".hosts.sandnet-original").read_text() == "theirs"
    files.discard_original(f"{root}/hosts")
    assert [path.name for path in root.iterdir()] == ["hosts"]


def test_endless_file_is_read_up_to_one_mebibyte(files: Files, root: Path) -> None:
    root.mkdir()
    (root / "hosts").write_bytes(b"x" * (MAX_READ + 1))
    assert files.read(f"{root}/hosts") == b"x" * MAX_READ
