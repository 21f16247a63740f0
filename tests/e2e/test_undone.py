"""What somebody undoes again and again: changes are made all the same, and repairs give way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.test_events import stream
from tests.e2e.test_healing import drift
from tests.support.daemon import World, mapping
from tests.support.network_host import eventually

ROUNDS = 10


@contextmanager
def again_and_again(world: World, command: str, pause: float) -> Iterator[None]:
    """Somebody runs a command for ever."""
    running = world.host.popen("sh", "-c", f"while :; do {command}; sleep {pause}; done")
    try:
        yield
    finally:
        running.kill()
        running.wait()


def test_given_a_ruleset_that_is_flushed_again_and_again_when_50_changes_are_made_then_none_fails(
    fresh_world: World,
) -> None:
    """A request that is refused raises."""
    world = fresh_world
    world.start()
    with again_and_again(world, "nft flush ruleset", 0.05):
        world.api.network("foo")
        for number in range(ROUNDS):
            world.api.endpoint("foo", "web", mapping(80, 8080))
            world.api.post("/services/web/backend", container_id=f"a{number}")
            world.api.post("/services/web/backend", container_id=f"b{number}")
            world.api.delete(f"/services/web/backend/a{number}")
            world.api.delete("/networks/foo/endpoints/web?force=true")
        box = world.box("foo", "web", mapping(80, 8080))
    eventually(lambda: drift(world, fix=True) == [])  # what is asked for does not wait
    box.serve("web", 80)
    assert world.here.ask("127.0.0.1", 8080).server == "web"


def test_given_somebody_who_undoes_repairs_when_it_goes_on_then_they_become_rare_and_health_says_so(
    world: World,
) -> None:
    network = world.api.network("foo")
    box, bridge = world.box("foo", "web"), f"snb{network[:10]}"
    with again_and_again(world, f"ip link set {bridge} down", 0.05):
        eventually(lambda: "somebody undoes it" in str(world.api.get("/healthz")["problems"]))
        problems = world.api.get("/healthz")["problems"]
        assert any(problem.startswith("network foo has been repaired ") for problem in problems)
        with stream(world) as reader:
            time.sleep(3.5)  # after waits of 1 s, 2 s and 4 s
            world.api.network("end")
            told = reader.until(lambda event: event.get("name") == "end")
        assert sum(event["action"] == "repaired" and event["type"] == "network" for event in told) <= 3
    eventually(lambda: box.reaches(world.api.told("foo")["gateways"][0], 0.3))
    world.api.delete("/networks/foo?force=true")
    eventually(lambda: world.api.get("/healthz")["status"] == "ok")
