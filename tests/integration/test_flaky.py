"""Continuous integration runs tests that failed again, by themselves, and names those that pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.flaky import MOST

ROOT = Path(__file__).parents[2]

TESTS = """
from pathlib import Path

import pytest

RUNS = Path(__file__).with_name("runs")

@pytest.mark.parametrize("number", range({failing}))
def test_fails_at_first(number):
    with RUNS.open("a") as runs:
        runs.write("x")
    assert RUNS.stat().st_size not in {failures}

def test_passes():
    pass
"""


def run(folder: Path, failing: int, failures: list[int]) -> subprocess.CompletedProcess[str]:
    """Run as many tests that may fail as given. These runs of them fail, counted over all of them from 1."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_of_failing.py").write_text(TESTS.format(failing=failing, failures=failures))
    command = (sys.executable, "-m", "tests.support.flaky", "-n", "1", str(folder))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_unstable_test_is_named_and_accepted(tmp_path: Path) -> None:
    done = run(tmp_path, failing=1, failures=[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UNSTABLE test_of_failing.py::test_fails_at_first[0]" in done.stdout
    assert (tmp_path / "runs").stat().st_size == 4, "once beside others, three times by itself"


@pytest.mark.parametrize("failures", [[1, 2], [1, 4]], ids=["the first time", "the last time"])
def test_test_that_fails_again_by_itself_is_a_failure(tmp_path: Path, failures: list[int]) -> None:
    assert run(tmp_path, failing=1, failures=failures).returncode == 1


def test_many_failures_are_not_repeated(tmp_path: Path) -> None:
    done = run(tmp_path, failing=MOST + 1, failures=[*range(1, MOST + 2)])
    assert done.returncode == 1
    assert (tmp_path / "runs").stat().st_size == MOST + 1


def test_run_that_cannot_begin_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("raise ImportError")
    assert run(tmp_path, failing=1, failures=[]).returncode == pytest.ExitCode.USAGE_ERROR
