"""A daemon with more than 1,024 open descriptors: libnftables waits with select(2), which knows no higher ones."""

from __future__ import annotations

import sys

from tests.support.daemon import RunningDaemon, mapping
from tests.support.network_host import eventually

PORTS = 1100
INHERITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
for _ in range({PORTS}):
    os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def rules(daemon: RunningDaemon) -> str:
    return daemon.host.sh("nft", "list", "tables")


def test_1100_ports_are_restored_after_a_flush_and_a_restart(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo")
    ports = [mapping(80, 20000 + number) for number in range(PORTS)]
    for first in range(0, PORTS, 100):
        daemon.api.endpoint("foo", f"web{first}", *ports[first : first + 100])
        daemon.attach("foo", f"web{first}", f"c{first}")
    assert_repairs(daemon)
    daemon.kill()
    daemon.start()
    assert_repairs(daemon)


def test_1100_inherited_descriptors_do_not_prevent_repairs(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    daemon.start(through=(sys.executable, "-c", INHERITED))
    daemon.api.network("foo")
    assert_repairs(daemon)


def assert_repairs(daemon: RunningDaemon) -> None:
    """The daemon holds so many descriptors, puts the rules back, and goes on."""
    assert daemon.process
    pid = daemon.process.pid
    assert int(daemon.host.sh("sh", "-c", f"ls /proc/{pid}/fd | wc -l")) > PORTS
    daemon.host.sh("nft", "flush", "ruleset")
    eventually(lambda: "inet sandnet" in rules(daemon) and "bridge sandnet" in rules(daemon))
    daemon.api.post("/reconcile", fix=True)
    assert daemon.api.get("/healthz")["status"] == "ok"
    assert daemon.is_running()
