"""Containers whose process is killed are let go within five seconds, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.promises import in_time
from tests.e2e.services import PORT, published, talks, under_load
from tests.support.daemon import PREDEFINED, SANDNET, RefusedError, World, mapping, state_of
from tests.support.network_host import eventually
from tests.support.traffic import until

pytestmark = pytest.mark.timeout(120)
PROMISED = 5.0
"""Seconds within which nothing is left of a container that died."""
SOON = 20.0
"""Seconds within which the dead are let go where it is not measured, as the machines of tests are shared."""


def process(world: World, namespace: str = "") -> subprocess.Popen[str]:
    """A process on the host, or in a namespace."""
    start = world.host.start_here
    return world.host.inside(namespace, start, "sleep", "300") if namespace else world.host.popen("sleep", "300")


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL; its remains stay until the test ends, as with a parent that does not care."""
    os.kill(running.pid, signal.SIGKILL)


def containers(world: World) -> list[str]:
    return [box["id"] for box in world.api.get("/sandboxes")]


def watched(world: World) -> subprocess.Popen[str]:
    """A process that a join named."""
    running = process(world)
    world.box("foo", "one", join={"watch_pid": running.pid})
    return running


def inhabitant(world: World) -> subprocess.Popen[str]:
    """The only process in a sandbox that goes with the last."""
    box = world.box("foo", "one", join={"auto_remove": True})
    running = process(world, box.key)
    until(lambda: occupied(world))
    return running


def runner(world: World) -> subprocess.Popen[str]:
    """A ``sandnet run``."""
    socket = f"unix://{world.run}/sandnet.sock"
    words = ["run", "--net", "foo", "--", "sh", "-c", "echo; exec sleep 300"]
    running = world.host.popen(str(SANDNET), "-H", socket, *words)
    assert running.stdout
    running.stdout.readline()
    return running


@pytest.mark.parametrize("start", [watched, inhabitant, runner])
def test_given_a_container_when_its_process_is_killed_then_nothing_of_it_is_left_in_five_seconds(
    world: World, start: Callable[[World], subprocess.Popen[str]], request: pytest.FixtureRequest
) -> None:
    world.api.network("foo")
    links = world.our_links()

    def buried() -> float:
        running = start(world)
        began = time.monotonic()
        kill(running)
        eventually(lambda: containers(world) == [] and world.our_links() == links, SOON)
        took = time.monotonic() - began
        for service in world.api.get("/services"):
            with suppress(RefusedError):  # the endpoint of a killed `run` is removed at the same time
                world.api.delete(f"/services/{service['id']}")
        eventually(lambda: world.api.get("/services") == [])
        return took

    took = in_time(buried, float, PROMISED)
    request.node.user_properties += [("took", took)]


def test_given_a_container_joined_by_pid_when_it_is_killed_then_nothing_of_it_stays_but_its_endpoint(
    world: World,
) -> None:
    world.api.network("foo")
    before = world.facts()
    theirs = world.host.container()
    running = process(world, theirs.path)
    world.api.endpoint("foo", "one", mapping(80, 8080))
    box = world.attach("foo", "one", "c1", pid=running.pid)
    told = world.api.get("/sandboxes/c1", verbose="true")
    assert (told["pid"], told["auto_remove"]) == (running.pid, True)
    kill(running)
    eventually(lambda: containers(world) == [], SOON)
    until(lambda: world.facts().links == before.links)
    assert (world.facts().mounts, world.facts().files) == (before.mounts, before.files)
    assert [link[0] for link in state_of(world.place(theirs.path))[0]] == ["lo"]
    again = world.attach("foo", "one", "c2")
    assert again.address == box.address
    again.serve("again", 80)
    assert world.here.ask("127.0.0.1", 8080).server == "again"


def test_given_forty_containers_when_all_are_killed_at_once_then_nothing_of_them_stays_and_others_go_on(
    world: World,
) -> None:
    world.api.network("foo")
    alive, other = world.box("foo", "alive"), world.box("foo", "other")
    before = world.facts()
    running = [process(world) for _ in range(40)]
    for i, each in enumerate(running):
        world.api.endpoint("foo", f"e{i}")
        world.api.join("foo", f"e{i}", f"c{i}", watch_pid=each.pid)
    for each in running:
        kill(each)
    eventually(lambda: len(containers(world)) == 2, SOON)
    until(lambda: world.facts() == before)
    assert other.reaches(alive.address)
    assert world.api.post("/reconcile", fix=False)["drift"] == []


def test_given_containers_that_were_killed_when_their_network_is_deleted_then_it_goes(world: World) -> None:
    world.api.network("foo")
    running = [process(world) for _ in range(2)]
    for i, each in enumerate(running):
        world.box("foo", f"e{i}", join={"watch_pid": each.pid})
    kill(running[0])
    until(lambda: len(containers(world)) == 1)
    with pytest.raises(RefusedError) as refused:
        world.api.delete("/networks/foo")
    assert refused.value.status == 403
    assert "active endpoints: e1 (" in refused.value.message
    assert f"pid {running[1].pid}" in refused.value.message
    kill(running[1])
    until(lambda: containers(world) == [])
    world.api.delete("/networks/foo")


def test_given_live_containers_when_their_network_is_deleted_by_force_then_all_goes(world: World) -> None:
    before = world.facts()
    network = world.api.network("foo", ipv6=True)
    world.api.network("bar")
    world.api.endpoint("bar", "other")
    box = world.box("foo", "web", mapping(80, 8080))
    world.attach("bar", "other", box.container)
    for i in range(3):
        world.box("foo", f"e{i}")
        world.api.post("/services/web/backend", container_id=f"more{i}")
    for path in ("/networks/foo", "/networks/foo/endpoints/web", "/services/web"):
        with pytest.raises(RefusedError) as refused:
            world.api.delete(path)
        assert refused.value.status == 403
    world.api.delete("/services/e0?force=true")
    world.api.delete("/networks/foo/endpoints/e1?force=true")
    world.api.delete(f"/networks/{network[:12]}?force=true")
    with pytest.raises(RefusedError) as refused:
        world.api.delete(f"/networks/{network[:12]}?force=true")
    assert refused.value.status == 404
    assert containers(world) == [box.container]
    assert box.reaches("198.51.100.2")
    world.cli("network", "rm", "--force", "bar")
    until(lambda: world.facts()._replace(sysctls=()) == before._replace(sysctls=()))


@pytest.mark.parametrize(("query", "code"), [("force=1", 400), ("force=", 400), ("forced=true", 400)])
def test_given_a_query_that_is_not_understood_when_deleting_then_nothing_happens(
    world: World, query: str, code: int
) -> None:
    world.api.network("foo")
    with pytest.raises(RefusedError) as refused:
        world.api.delete(f"/networks/foo?{query}")
    assert (refused.value.status, refused.value.body["code"]) == (code, "invalid_query")
    assert world.api.get("/networks", name="foo")


def test_given_auto_remove_when_the_last_process_leaves_the_namespace_then_the_sandbox_goes(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one", join={"auto_remove": True})
    running = [process(world, box.key) for _ in range(2)]
    until(lambda: occupied(world))
    kill(running[0])
    time.sleep(2.5)  # more than two looks
    assert containers(world) == [box.container]
    kill(running[1])
    eventually(lambda: containers(world) == [], SOON)


def occupied(world: World) -> bool:
    """Whether the daemon has seen somebody in a sandbox."""
    return '"occupied":true' in world.host.sh(
        "sqlite3", "-readonly", str(world.state / "sandnet.db"), "select value from entries where key like 'sandbox/%'"
    )


def test_given_a_process_killed_while_the_daemon_is_away_when_it_starts_then_its_container_is_gone_first(
    world: World,
) -> None:
    world.api.network("foo")
    dead, alive = process(world), process(world)
    world.box("foo", "dead", join={"watch_pid": dead.pid})
    kept = world.box("foo", "alive", join={"watch_pid": alive.pid})
    world.kill()
    kill(dead)
    world.start()
    assert containers(world) == [kept.container]
    kill(alive)
    eventually(lambda: containers(world) == [], SOON)


def test_given_a_run_that_is_killed_then_its_command_and_all_it_made_are_gone(world: World) -> None:
    world.api.network("foo")
    before = world.facts()
    socket = f"unix://{world.run}/sandnet.sock"
    words = ["run", "--net", "foo", "-p", "8080:80", "--", "sh", "-c", "echo $$; exec sleep 300"]
    running = world.host.popen(str(SANDNET), "-H", socket, *words)
    assert running.stdout
    command = int(running.stdout.readline())
    kill(running)
    eventually(lambda: world.api.get("/services") == [] and containers(world) == [], SOON)
    eventually(lambda: world.facts() == before, SOON)
    until(lambda: not Path(f"/proc/{command}/exe").exists())


def test_given_a_run_killed_while_the_daemon_is_away_when_it_starts_then_nothing_stays(world: World) -> None:
    world.api.network("foo")
    socket = f"unix://{world.run}/sandnet.sock"
    running = world.host.popen(
        str(SANDNET), "-H", socket, "run", "--net", "foo", "--", "sh", "-c", "echo; exec sleep 300"
    )
    assert running.stdout
    running.stdout.readline()
    world.kill()
    kill(running)
    world.start()
    eventually(lambda: world.api.get("/services") == [] and containers(world) == [], SOON)


def test_given_a_backend_that_is_killed_under_load_then_new_flows_go_elsewhere_and_others_never_pause(
    world: World,
) -> None:
    service = published(world)
    running = {name: process(world) for name in ("b1", "b2", "b3")}
    for name, each in running.items():
        service.attach(name, watch_pid=each.pid)
    open_ = talks(service, service.client, service.address, PORT)
    victim, links = service.holder(), len(world.our_links())
    with under_load([talk for talk in open_ if talk.server != victim]):
        kill(running[victim])
        eventually(lambda: len(world.our_links()) < links, SOON)  # its link goes after new flows have
        assert victim not in service.told()
        spread: Counter[str] = service.spread()
    assert set(spread) == set(running) - {victim}


def test_given_a_host_that_was_booted_anew_when_the_daemon_starts_then_the_dead_hold_nothing(
    fresh_world: World,
) -> None:
    world = fresh_world
    world.start()
    network = world.api.network("foo", subnet="10.9.0.0/29")
    web = world.box("foo", "web", mapping(80, 8080))
    for i in range(4):  # each leases an address of its own: the network is full then
        world.api.post("/services/web/backend", container_id=f"more{i}")
    with pytest.raises(RefusedError):
        world.api.endpoint("foo", "late")
    world.kill()
    boot(world, f"snb{network[:10]}")
    world.start()
    assert containers(world) == []
    assert world.api.get("/healthz")["problems"] == []
    assert world.api.told("foo", "web")["address"].partition("/")[0] == web.address
    again = world.attach("foo", "web", "c1")
    again.serve("again", 80)
    assert world.here.ask("127.0.0.1", 8080).server == "again"
    world.api.endpoint("foo", "late")
    assert [net["name"] for net in world.api.get("/networks")] == [*PREDEFINED, "foo"]
    world.stack.pop_all().close()
    world.down()
    after = world.facts()
    assert after._replace(sysctls=()) == world.before._replace(sysctls=())
    assert "net.ipv4.ip_forward = 1" in after.sysctls  # as this boot had it, not the earlier one
    assert "net.ipv4.ip_forward = 0" in world.before.sysctls


def boot(world: World, bridge: str) -> None:
    """What a boot does: all that the kernel held is gone, and its administrator has set ``ip_forward`` meanwhile."""
    sh = world.host.sh
    world.kill_resolvers()
    world.stack.pop_all().close()
    for key in world.pinned():
        sh("umount", key)
    for link in (bridge, *(name for name in world.our_links() if name != bridge)):
        if link in world.links():  # an end of a pair goes with its namespace, a little later
            world.host.run(subprocess.run, ["ip", "link", "delete", link], capture_output=True, check=False)
    sh("nft", "flush", "ruleset")
    sh("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv4.ip_forward=1")
    identity = world.folder / "boot_id"
    identity.write_text(f"{uuid4()}\n")
    sh("mount", "--bind", str(identity), "/proc/sys/kernel/random/boot_id")
