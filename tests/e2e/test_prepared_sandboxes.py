"""The pool of prepared sandboxes of a running daemon: it disturbs nothing, and leaves nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sandnet.kernel.capabilities import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN
from sandnet.preparer import PRIORITY
from tests.support.daemon import RunningDaemon
from tests.support.network_host import eventually

SIZE = 8
"""What the pool holds by default."""


@pytest.fixture
def daemon(fresh_daemon: RunningDaemon) -> RunningDaemon:
    fresh_daemon.start()
    eventually(lambda: state(fresh_daemon)["ready"] == SIZE)
    return fresh_daemon


def state(daemon: RunningDaemon) -> dict[str, int]:
    found: dict[str, int] = daemon.api.get("/healthz", verbose="true")["prepared_sandboxes"]
    return found


def test_full_pool_is_no_drift(daemon: RunningDaemon) -> None:
    before = daemon.prepared()
    assert len(before) == SIZE
    assert daemon.api.post("/reconcile", fix=True)["drift"] == []
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    assert daemon.prepared() == before
    assert "8 of 8 ready" in daemon.cli("status")


def test_killed_daemon_leaves_no_prepared_sandbox(daemon: RunningDaemon) -> None:
    (preparer,) = daemon.preparers()
    daemon.kill()
    killed_at = time.monotonic()
    eventually(lambda: not daemon.prepared())
    print(f"gone after {time.monotonic() - killed_at:.3f} s")
    eventually(lambda: not Path(f"/proc/{preparer}").exists())


def test_stopped_daemon_leaves_no_prepared_sandbox(daemon: RunningDaemon) -> None:
    (preparer,) = daemon.preparers()
    daemon.stop()
    assert not daemon.prepared()
    assert not Path(f"/proc/{preparer}").exists()


def test_restarted_daemon_has_a_pool_of_its_own(daemon: RunningDaemon) -> None:
    before = daemon.prepared()
    daemon.kill()
    daemon.start()
    eventually(lambda: state(daemon)["ready"] == SIZE)
    assert len(daemon.prepared()) == SIZE
    assert not daemon.prepared() & before
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_joins_go_on_without_the_process_that_prepares(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    (preparer,) = daemon.preparers()
    os.kill(preparer, signal.SIGSTOP)
    for number in range(SIZE + 2):
        daemon.sandbox("foo", f"web{number}")
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
    os.kill(preparer, signal.SIGCONT)
    eventually(lambda: state(daemon)["ready"] >= SIZE)
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_process_that_prepares_has_few_rights_and_a_low_priority(daemon: RunningDaemon) -> None:
    (preparer,) = daemon.preparers()
    shown = dict(
        line.split(":\t") for line in Path(f"/proc/{preparer}/status").read_text().splitlines() if ":\t" in line
    )
    needed = sum(1 << number for number in (CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_SYS_ADMIN))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(shown[name], 16) & ~needed == 0
    assert int(shown["CapInh"], 16) == int(shown["CapAmb"], 16) == 0
    assert shown["NoNewPrivs"] == "1"
    assert os.getpriority(os.PRIO_PROCESS, preparer) == max(PRIORITY, os.getpriority(os.PRIO_PROCESS, 0)) > 0


def test_pool_of_size_zero_prepares_nothing(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write("prepared_sandboxes = 0\n")
    daemon.start()
    daemon.api.network("foo")
    daemon.sandbox("foo", "web")
    assert "prepared_sandboxes" not in daemon.api.get("/healthz", verbose="true")
    assert not daemon.prepared()
    assert not daemon.preparers()
