"""The end of a running daemon, as ``sandnet down`` awaits it: with a process that holds the same locks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandnet.config import Config
from sandnet.errors import Error
from sandnet.serving import single_instance
from sandnet.serving.single_instance import PID_FILE, lock_file, stop_running

HOLDER = """
import fcntl, os, signal, sys
files = [open(path, "w") for path in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
files[0].write(f"{os.getpid()}\\n")
files[0].flush()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("locked", flush=True)
signal.sigwait([signal.SIGTERM])
for file in files:
    file.close()
print("unlocked", flush=True)
sys.stdin.read()
"""
"""Release the locks at SIGTERM, and exit when the input ends."""


@contextmanager
def holder(config: Config) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the locks of a daemon."""
    paths = [str(Path(config.run_dir, PID_FILE)), lock_file(config)]
    command = [sys.executable, "-c", HOLDER, *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        expect(process, "locked")
        yield process


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout
    assert process.stdout.readline() == f"{line}\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    return Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"))


def test_stopped_daemon_is_awaited_until_its_process_has_exited(config: Config) -> None:
    with holder(config) as process, ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop_running, config)
        expect(process, "unlocked")
        with pytest.raises(TimeoutError):
            stopping.result(0.2)
        process.communicate()
        stopping.result()
    assert process.returncode == 0


def test_daemon_that_does_not_stop_is_reported(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_instance, "STOP_DEADLINE", 0.1)
    with holder(config) as process:
        with pytest.raises(Error, match="has not stopped") as caught:
            stop_running(config)
        process.communicate()
    assert caught.value.code == "daemon_running"


def test_process_named_by_a_stale_pid_file_is_left_alone(config: Config) -> None:
    with holder(config) as process:
        process.send_signal(signal.SIGTERM)
        expect(process, "unlocked")
        stop_running(config)
        assert process.poll() is None
        process.communicate()
