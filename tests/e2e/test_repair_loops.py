"""What another program undoes again and again: changes are made, and repairs back off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.test_events import stream
from tests.e2e.test_repair import drift
from tests.support.daemon import RunningDaemon, mapping
from tests.support.network_host import eventually

ROUNDS = 10


@contextmanager
def again_and_again(daemon: RunningDaemon, command: str, pause: float) -> Iterator[None]:
    """Another program runs a command for ever."""
    running = daemon.host.popen("sh", "-c", f"while :; do {command}; sleep {pause}; done")
    try:
        yield
    finally:
        running.kill()
        running.wait()


def test_50_changes_succeed_under_repeated_ruleset_flushes(
    fresh_daemon: RunningDaemon,
) -> None:
    """A request that is refused raises."""
    daemon = fresh_daemon
    daemon.start()
    with again_and_again(daemon, "nft flush ruleset", 0.05):
        daemon.api.network("foo")
        for number in range(ROUNDS):
            daemon.api.endpoint("foo", "web", mapping(80, 8080))
            daemon.api.post("/services/web/backend", container_id=f"a{number}")
            daemon.api.post("/services/web/backend", container_id=f"b{number}")
            daemon.api.delete(f"/services/web/backend/a{number}")
            daemon.api.delete("/networks/foo/endpoints/web?force=true")
        sandbox = daemon.sandbox("foo", "web", mapping(80, 8080))
    eventually(lambda: drift(daemon, fix=True) == [])  # what is asked for does not wait
    sandbox.serve("web", 80)
    assert daemon.here.ask("127.0.0.1", 8080).server == "web"


def test_repairs_undone_repeatedly_are_slowed_and_reported(
    daemon: RunningDaemon,
) -> None:
    network = daemon.api.network("foo")
    sandbox, bridge = daemon.sandbox("foo", "web"), f"snb{network[:10]}"
    with again_and_again(daemon, f"ip link set {bridge} down", 0.05):
        eventually(lambda: "another program undoes it" in str(daemon.api.get("/healthz")["problems"]))
        problems = daemon.api.get("/healthz")["problems"]
        assert any(problem.startswith("network foo has been repaired ") for problem in problems)
        with stream(daemon) as reader:
            time.sleep(3.5)  # after waits of 1 s, 2 s and 4 s
            daemon.api.network("end")
            reported = reader.until(lambda event: event.get("name") == "end")
        assert sum(event["action"] == "repaired" and event["type"] == "network" for event in reported) <= 3
    eventually(lambda: sandbox.reaches(daemon.api.reported("foo")["gateways"][0], 0.3))
    daemon.api.delete("/networks/foo?force=true")
    eventually(lambda: daemon.api.get("/healthz")["status"] == "ok")
