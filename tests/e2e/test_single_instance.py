"""The abstract name ``@sandnet`` keeps a second daemon out, and keeps nothing else out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.daemon import SANDNET, RunningDaemon
from tests.support.network_host import eventually
from tests.support.privileges import needs_other_users

HOLD = """
import socket, time
held = socket.socket(socket.AF_UNIX)
held.bind("\\0sandnet")
held.listen()
print(flush=True)
time.sleep(99)
"""
HAND_ON = """
import os, socket, time
held = socket.socket(socket.AF_UNIX)
held.bind("\\0sandnet")
if not os.fork():
    held.listen()
    os._exit(0)
os.wait()
print(flush=True)
time.sleep(99)
"""
"""The process that listened has ended; another one has its socket."""
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def hold(daemon: RunningDaemon, program: str, *confined: str) -> None:
    holder = daemon.host.popen(*confined, sys.executable, "-uc", program)
    assert holder.stdout
    assert holder.stdout.readline() == "\n"


@pytest.mark.parametrize(
    ("program", "confined"),
    [
        (HOLD, NO_CAPABILITIES),
        (HAND_ON, ()),
        pytest.param(HOLD, ("setpriv", "--reuid=65534", "--clear-groups"), marks=needs_other_users),
    ],
    ids=["no capabilities", "ended", "another user"],
)
def test_lock_name_held_by_another_program_does_not_block_start(
    fresh_daemon: RunningDaemon, program: str, confined: tuple[str, ...]
) -> None:
    hold(fresh_daemon, program, *confined)
    fresh_daemon.start()
    eventually(lambda: fresh_daemon.api.get("/healthz")["status"] == "ok")
    assert "held by a process that is none of ours" in fresh_daemon.log


def test_second_daemon_beside_a_running_one_is_refused(fresh_daemon: RunningDaemon) -> None:
    fresh_daemon.start()
    command = [str(SANDNET), "daemon", "--state-dir=/run/other", "--run-dir=/run/other-run"]
    ended = fresh_daemon.host.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert ended.returncode == 1
    assert "another sandnet daemon manages this host's network" in ended.stderr
