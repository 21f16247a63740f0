"""Programs that are started to outlive us."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.spawn import start_detached
from sandnet.logs import LOG_LIMIT


def test_program_runs_in_its_own_session_and_writes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    start_detached([sys.executable, "-c", "import os, sys; print(os.getsid(0), sys.stdin.read())"], str(log))
    before, session = log.read_text().splitlines()
    assert before == "before"
    assert int(session) != os.getsid(0)


@pytest.mark.parametrize("command", [["/nowhere"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_program_that_fails_to_start_is_reported(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(Error) as failed:
        start_detached(command, str(tmp_path / "log"))
    assert failed.value.kind == Kind.UNAVAILABLE


def test_large_log_is_truncated_at_program_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_LIMIT + 1))
    start_detached([sys.executable, "-c", "print('new')"], str(log))
    assert log.read_text() == "new\n"


def test_symlinked_log_is_refused_at_program_start(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "other")
    with pytest.raises(Error):
        start_detached(["true"], str(tmp_path / "log"))
    assert not (tmp_path / "other").exists()
