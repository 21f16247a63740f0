"""``sandnet daemon --detach`` returns when the daemon serves, or reports why it does not."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from sandnet.logs import LOG_LIMIT
from tests.support.daemon import SANDNET, RunningDaemon
from tests.support.network_host import eventually


def sandnet(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the host; the client's socket is the daemon's."""
    host = ["-H", f"unix://{daemon.run}/sandnet.sock"]
    return daemon.host.run(
        lambda: subprocess.run([SANDNET, *host, *words], capture_output=True, text=True, timeout=60, check=False)
    )


def pid_of(daemon: RunningDaemon) -> int:
    return int((daemon.run / "sandnet.pid").read_text())


def test_detach_returns_once_the_daemon_serves(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    done = sandnet(daemon, "daemon", "--detach", *daemon.directories)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"sandnet: ready on unix://{daemon.run}/sandnet.sock\n  its log: {daemon.run}/daemon.log\n"
    assert "bridge" in sandnet(daemon, "network", "ls").stdout
    pid = pid_of(daemon)
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert stat.S_IMODE((daemon.run / "daemon.log").stat().st_mode) == 0o600
    assert not list(daemon.run.glob("ready.*"))
    assert sandnet(daemon, "down", *daemon.directories).returncode == 0
    assert not daemon.run.exists()
    assert daemon.facts() == daemon.before


def test_second_detached_daemon_fails_with_the_reason(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    daemon.start()
    done = sandnet(daemon, "daemon", "--detach", *daemon.directories)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the daemon did not start: another sandnet daemon manages this host's network; stop it first" in done.stderr
    assert f"its log: {daemon.run}/daemon.log" in done.stderr
    assert sandnet(daemon, "network", "ls").returncode == 0
    daemon.down()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tls-ca=/nowhere"], "TLS needs three files; give"),
        (["--store=nonsense://x"], "store"),
        (["-H=tcp://192.0.2.77:1"], "TLS"),
    ],
)
def test_failed_detach_exits_1_with_reason_and_log_path(
    fresh_daemon: RunningDaemon, options: list[str], reason: str
) -> None:
    daemon = fresh_daemon
    done = sandnet(daemon, "daemon", "--detach", *daemon.directories, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sandnet: the daemon did not start: ")
    assert reason in done.stderr
    assert f"  its log: {daemon.run}/daemon.log\n" in done.stderr
    assert not list(daemon.run.glob("ready.*"))


def test_detach_reports_an_unwritable_directory_without_a_log(
    fresh_daemon: RunningDaemon,
) -> None:
    done = sandnet(fresh_daemon, "daemon", "--detach", "--run-dir=/proc/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("sandnet: cannot write /proc/nowhere/daemon.log: ")


def test_detach_does_not_write_through_a_symlinked_log(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.run.mkdir(parents=True)
    target = daemon.folder / "target"
    target.write_text("mine")
    (daemon.run / "daemon.log").symlink_to(target)
    assert sandnet(daemon, "daemon", "--detach", *daemon.directories).returncode == 1
    assert target.read_text() == "mine"


def test_oversized_log_is_truncated(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.run.mkdir(parents=True)
    log = daemon.run / "daemon.log"
    log.write_bytes(b"x" * (LOG_LIMIT + 1))
    log.chmod(0o600)
    assert sandnet(daemon, "daemon", "--detach", *daemon.directories).returncode == 0
    eventually(lambda: log.stat().st_size < LOG_LIMIT)
    assert "Started server process" in log.read_text()
    assert Path(f"/proc/{pid_of(daemon)}").exists()
    assert sandnet(daemon, "down", *daemon.directories).returncode == 0
