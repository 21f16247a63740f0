"""``sandnet daemon --detach`` returns when the daemon serves, or says why it does not."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from sandnet.logs import LOG_LIMIT
from tests.support.daemon import SANDNET, World
from tests.support.network_host import eventually


def sandnet(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the host; the client's socket is the world's."""
    host = ["-H", f"unix://{world.run}/sandnet.sock"]
    return world.host.run(
        lambda: subprocess.run([SANDNET, *host, *words], capture_output=True, text=True, timeout=60, check=False)
    )


def pid_of(world: World) -> int:
    return int((world.run / "sandnet.pid").read_text())


def test_given_no_daemon_when_one_is_detached_then_it_serves_when_the_command_returns(fresh_world: World) -> None:
    world = fresh_world
    done = sandnet(world, "daemon", "--detach", *world.directories)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"sandnet: ready on unix://{world.run}/sandnet.sock\n  its log: {world.run}/daemon.log\n"
    assert "bridge" in sandnet(world, "network", "ls").stdout
    pid = pid_of(world)
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert stat.S_IMODE((world.run / "daemon.log").stat().st_mode) == 0o600
    assert not list(world.run.glob("ready.*"))
    assert sandnet(world, "down", *world.directories).returncode == 0
    assert not world.run.exists()
    assert world.facts() == world.before


def test_given_a_daemon_when_another_is_detached_then_the_reason_is_told_and_the_first_goes_on(
    fresh_world: World,
) -> None:
    world = fresh_world
    world.start()
    done = sandnet(world, "daemon", "--detach", *world.directories)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the daemon did not start: another sandnet daemon manages this host's network; stop it first" in done.stderr
    assert f"its log: {world.run}/daemon.log" in done.stderr
    assert sandnet(world, "network", "ls").returncode == 0
    world.down()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tls-ca=/nowhere"], "TLS needs three files; give"),
        (["--store=nonsense://x"], "store"),
        (["-H=tcp://192.0.2.77:1"], "TLS"),
    ],
)
def test_given_a_daemon_that_cannot_start_when_detached_then_status_1_the_reason_and_the_logs_place(
    fresh_world: World, options: list[str], reason: str
) -> None:
    world = fresh_world
    done = sandnet(world, "daemon", "--detach", *world.directories, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sandnet: the daemon did not start: ")
    assert reason in done.stderr
    assert f"  its log: {world.run}/daemon.log\n" in done.stderr
    assert not list(world.run.glob("ready.*"))


def test_given_a_directory_that_cannot_be_written_when_detached_then_it_is_told_without_a_log(
    fresh_world: World,
) -> None:
    done = sandnet(fresh_world, "daemon", "--detach", "--run-dir=/proc/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("sandnet: cannot write /proc/nowhere/daemon.log: ")


def test_given_a_link_in_the_logs_place_when_detached_then_its_target_is_not_written(fresh_world: World) -> None:
    world = fresh_world
    world.run.mkdir(parents=True)
    target = world.folder / "target"
    target.write_text("mine")
    (world.run / "daemon.log").symlink_to(target)
    assert sandnet(world, "daemon", "--detach", *world.directories).returncode == 1
    assert target.read_text() == "mine"


def test_given_a_large_log_when_the_daemon_logs_then_it_is_emptied(fresh_world: World) -> None:
    world = fresh_world
    world.run.mkdir(parents=True)
    log = world.run / "daemon.log"
    log.write_bytes(b"x" * (LOG_LIMIT + 1))
    log.chmod(0o600)
    assert sandnet(world, "daemon", "--detach", *world.directories).returncode == 0
    eventually(lambda: log.stat().st_size < LOG_LIMIT)
    assert "Started server process" in log.read_text()
    assert Path(f"/proc/{pid_of(world)}").exists()
    assert sandnet(world, "down", *world.directories).returncode == 0
