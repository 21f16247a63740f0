"""What this machine lacks, as commands report it that find no daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandnet import prerequisites
from sandnet.prerequisites import PREREQUISITES, advice, has_library, has_program, install_command
from sandnet.transport import START_HINT, unreachable

REPOSITORY = Path(__file__).parents[2]
ELF = b"\x7fELF\2\1\1"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without libraries and programs; returns the directory in which both are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(prerequisites, "_LIBRARY_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(prerequisites, "PROGRAM_FOLDERS", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, content: bytes = ELF) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    (folder / name).chmod(0o755)


def test_advice_on_a_bare_machine_names_packages_and_command(bare: Path) -> None:
    assert advice() == (
        "the library libnftables.so.1, the library libseccomp.so.2, the program nft and the program ip are missing on "
        "this machine: apt-get install libnftables1 libseccomp2 nftables iproute2"
    )


def test_advice_names_only_what_is_missing(bare: Path) -> None:
    install(bare, "nft")
    for name in ("libnftables.so.1", "libseccomp.so.2"):
        install(bare / "x86_64-linux-gnu", name)
    assert advice() == "the program ip is missing on this machine: apt-get install iproute2"


def test_advice_is_empty_if_nothing_is_missing(bare: Path) -> None:
    for name in ("nft", "ip", "libnftables.so.1", "libseccomp.so.2"):
        install(bare, name)
    assert advice() == ""


def test_library_that_cannot_be_loaded_is_missing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bare, "lib.so.1")
    assert has_library("lib.so.1")
    install(bare / "before", "lib.so.1", b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(bare / "before"))
    assert not has_library("lib.so.1")


def test_program_outside_of_the_path_is_found(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bare / "sbin", "nft")
    assert not has_program("nft")
    monkeypatch.setattr(prerequisites, "PROGRAM_FOLDERS", f"{bare}/sbin")
    assert has_program("nft")


@pytest.mark.parametrize("error", [FileNotFoundError(), ConnectionRefusedError()], ids=["no socket", "nobody listens"])
def test_unreachable_daemon_hint_begins_with_what_is_missing(bare: Path, error: OSError) -> None:
    assert unreachable("unix:///run/x", 1.0, error).hint == f"{advice()}; {START_HINT}"


def test_remote_daemon_hint_names_nothing_of_this_machine(bare: Path) -> None:
    assert unreachable("tcp://far:1", 1.0, ConnectionRefusedError()).hint == START_HINT


def test_refusing_daemon_hint_names_nothing_of_this_machine(bare: Path) -> None:
    assert "missing" not in unreachable("unix:///run/x", 1.0, PermissionError()).hint


def test_prerequisite_packages_are_in_the_list() -> None:
    listed = (REPOSITORY / "scripts" / "debian-packages.txt").read_text().splitlines()
    assert {each.package for each in PREREQUISITES} <= set(listed)


def test_install_command_names_each_package() -> None:
    assert install_command("a", "b") == "apt-get install a b"
