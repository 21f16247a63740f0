"""A test that hangs ends, whatever it waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.support.watchdog import Watchdog

def pytest_configure(config):
    config.pluginmanager.register(Watchdog(grace=0.2))
"""

TESTS = """
import threading

import pytest

@pytest.mark.timeout(0.3)
def test_hangs():
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass

def test_ends():
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the tests above in a process of their own."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_of_hanging.py").write_text(TESTS)
    settings = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder))
    command = (sys.executable, "-m", "pytest", *settings, *options, str(folder))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_hanging_test_ends_and_its_stack_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "Timeout (0:00:00.5" in done.stderr
    assert "in test_hangs" in done.stderr


def test_tests_beside_a_hanging_one_run(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "1")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "crashed while running 'test_of_hanging.py::test_hangs'" in done.stdout
