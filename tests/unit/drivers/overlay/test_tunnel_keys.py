"""The keys of a host's tunnel: made once, kept in a file, and changed in two steps."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from sandnet.drivers.overlay.tunnel_keys import NOTICE, TunnelKeys
from sandnet.errors import Error, Kind
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.safe_files import Files

PERIOD = 1000.0


class Case:
    """A host's keys, with clocks that a test sets."""

    def __init__(self, directory: Path) -> None:
        self.kernel = FakeKernel()
        self.path = directory / "state" / "wireguard.json"
        self.now = 1e9
        self.elapsed = 5.0
        self.keys = self.started()

    def started(self) -> TunnelKeys:
        """Those of a daemon that starts."""
        files = Files([str(self.path.parent)])
        return TunnelKeys(self.kernel.tunnels, files, str(self.path), PERIOD, lambda: self.now, lambda: self.elapsed)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_key_is_made_once_in_a_file_for_its_owner(case: Case) -> None:
    first = case.keys.current
    assert case.keys.public == (first.public,)
    assert case.keys.former == ""
    assert stat.S_IMODE(case.path.stat().st_mode) == 0o600
    assert case.started().current == first
    assert first.private not in repr(case.keys.current)


def test_key_stays_within_its_period(case: Case) -> None:
    first = case.keys.current
    case.now += 0.89 * PERIOD
    assert not case.keys.advance([first.public])
    assert case.keys.public == (first.public,)


@pytest.mark.parametrize("jump", [PERIOD, -1.0], ids=["over", "clock_set_back"])
def test_key_changes_once_the_next_one_was_published(case: Case, jump: float) -> None:
    first = case.keys.current
    case.now += jump
    assert not case.keys.advance([first.public])
    present, following = case.keys.public
    assert present == first.public
    for published in ([first.public], [first.public, following]):
        assert not case.keys.advance(published)
        case.elapsed += NOTICE - 1
    assert not case.keys.advance([first.public, following])
    case.elapsed += 1
    assert case.keys.advance([first.public, following])
    assert case.keys.public == (following,)
    assert case.keys.former == first.public
    assert case.started().public == (following,)


def test_notice_begins_again_when_the_store_lost_the_key(case: Case) -> None:
    first = case.keys.current
    case.now += PERIOD
    case.keys.advance([first.public])
    both = case.keys.public
    case.keys.advance(both)
    case.keys.advance([])
    case.elapsed += NOTICE
    assert not case.keys.advance(both)


def test_restart_goes_on_with_a_change_that_had_begun(case: Case) -> None:
    first = case.keys.current
    case.now += PERIOD
    case.keys.advance([first.public])
    both = case.keys.public
    again = case.started()
    assert again.public == both
    again.advance(both)
    case.elapsed += NOTICE
    assert again.advance(both)


def test_file_that_cannot_be_written_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = case.keys.current
    case.now += PERIOD

    def refuse(*_: object) -> None:
        raise Error(Kind.UNAVAILABLE, "no space is left")

    monkeypatch.setattr(Files, "write", refuse)
    with pytest.raises(Error, match="no space"):
        case.keys.advance([first.public])
    assert case.keys.public == (first.public,)


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "x", "since": 1}', b'{"since": 1}'])
def test_damaged_file_is_replaced(case: Case, content: bytes) -> None:
    first = case.keys.current
    case.path.write_bytes(content)
    assert case.started().current != first
    assert case.started().current == case.started().current


def test_symlink_in_place_of_the_file_is_not_followed(case: Case, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs")
    case.path.parent.mkdir(exist_ok=True)
    os.symlink(target, case.path)
    with suppress(Error):
        assert case.keys.current
    assert target.read_text() == "theirs"


@pytest.mark.parametrize("content", [None, b"", b"{}"], ids=["removed", "emptied", "replaced"])
def test_file_that_another_program_changes_is_written_again(case: Case, content: bytes | None) -> None:
    """It was in memory alone until the next start, which got another key at once: others did not know it."""
    first = case.keys.current
    case.path.unlink()
    if content is not None:
        case.path.write_bytes(content)
    assert not case.keys.advance([first.public])
    assert stat.S_IMODE(case.path.stat().st_mode) == 0o600
    assert case.started().current == first
