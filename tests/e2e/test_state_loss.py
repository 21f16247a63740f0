"""The state is damaged or gone: traffic flows on, the API tells the same objects, and health says what happened."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_events import stream
from tests.e2e.test_healing import repaired
from tests.e2e.test_restart import talk_until
from tests.support.daemon import HOST_ADDRESS, JSON, SANDNET, World, files_of, mapping
from tests.support.traffic import DOUBT, UDP, until

pytestmark = pytest.mark.timeout(120)

UNTOLD = ("labels", "aliases", "exposed_ports", "host_name", "domain_name", "dns", "created", "probe", "options")


def told(world: World) -> list[Any]:
    """What the API tells of networks, endpoints and sandboxes, but for what nothing in the kernel knows.

    The networks ``none`` and ``host`` are nothing but records: others take their place.
    """
    networks = [net for net in world.api.get("/networks", verbose="true") if net["name"] not in ("none", "host")]
    services, boxes = (world.api.get(f"/{what}", verbose="true") for what in ("services", "sandboxes"))
    return [sorted(map(_plain, some), key=lambda each: str(each["id"])) for some in (networks, services, boxes)]


def _plain(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in UNTOLD}
    return sorted(map(_plain, value), key=str) if isinstance(value, list) else value


def zeroed(world: World) -> None:
    path = world.state / "sandnet.db"
    path.write_bytes(bytes(path.stat().st_size))
    Path(f"{path}-wal").unlink(missing_ok=True)


def without_copies(world: World) -> None:
    zeroed(world)
    for copy in world.state.glob("sandnet.db.backup*"):
        copy.unlink()


def without_state(world: World) -> None:
    shutil.rmtree(world.state)


def has_a_copy(world: World) -> bool:
    return (world.state / "sandnet.db.backup").exists()


@pytest.mark.parametrize("lose", [zeroed, without_copies, without_state])
def test_given_traffic_when_the_state_is_lost_then_it_never_pauses_and_the_objects_are_as_before(
    fresh_world: World, lose: Callable[[World], None]
) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo", ipv6=True)
    web = world.box("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP), labels={"tier": "front"})
    until(lambda: has_a_copy(world))
    world.api.network("apart", internal=True)  # neither it nor what follows is in the copy
    peer, alone = world.box("foo", "peer"), world.box("apart", "alone")
    web.serve("web", 80)
    web.serve("web", 80, UDP)
    clients = [world.outside.client(HOST_ADDRESS, 8080), world.outside.client(HOST_ADDRESS, 8080, UDP)]
    clients.append(peer.client(web.address, 80))
    before, links = told(world), world.links()

    with ThreadPoolExecutor(len(clients)) as pool:
        done: list[bool] = []
        talks = [pool.submit(talk_until, lambda: bool(done), client) for client in clients]
        try:
            world.kill()
            lose(world)
            world.start()
        finally:
            done.append(True)
        assert all(talk.result() > 5 for talk in talks)

    assert told(world) == before
    assert world.links() == links
    health = world.api.get("/healthz")
    assert health["status"] == "degraded"
    assert "network apart" in str(health["problems"])
    assert bool(list(world.state.glob("sandnet.db.damaged-*"))) == (lose is not without_state)
    assert world.api.told("foo", "web")["labels"] == ({"tier": "front"} if lose is zeroed else {})
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert not alone.reaches(web.address, DOUBT)
    _end_well(world)


def _end_well(world: World) -> None:
    """What was found again can be left and deleted; the next start finds nothing wrong."""
    world.stop()
    world.start()
    assert world.api.get("/healthz")["status"] == "ok"
    world.stack.pop_all().close()
    world.api.clear()
    until(lambda: len(world.our_links()) == 1)
    world.down()
    # what the host's parameters were before, nothing in the kernel tells
    assert world.facts()._replace(sysctls=()) == world.before._replace(sysctls=())
    assert world.resolvers() == []


def only_the_file(world: World) -> None:
    (world.state / "sandnet.db").unlink()


@pytest.mark.parametrize("lose", [only_the_file, without_state])
def test_given_a_running_daemon_when_its_state_is_lost_then_it_is_written_again_in_time_and_told(
    fresh_world: World, lose: Callable[[World], None]
) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo")
    web, peer = world.box("foo", "web", mapping(80, 8080), labels={"tier": "front"}), world.box("foo", "peer")
    with stream(world) as news:
        lose(world)
        assert repaired(news, "the file is gone")["type"] == "state"
    world.api.network("later")
    before = [world.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")]

    world.kill()
    world.start()

    assert [world.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")] == before
    health = world.api.get("/healthz")
    assert (health["status"], health["problems"]) == ("ok", [])
    assert peer.reaches(web.address)
    assert files_of(world, web.container)[0]


def test_given_a_running_daemon_whose_state_directory_was_removed_then_it_is_still_the_only_one_and_down_finds_it(
    fresh_world: World,
) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo")
    document = world.folder / "document"
    state, here = [f"--state-dir={world.state}"], f"--run-dir={world.run}"
    world.host.sh(str(SANDNET), "state", "export", *state, str(document))
    shutil.rmtree(world.state)  # and the lock with it
    commands = [["daemon", *world.directories], ["state", "import", "--replace", *state, here, str(document)]]
    for command in commands:
        for elsewhere in ([], ["unshare", "--net"]):  # there the claim on the network does not help
            refused = world.host.run(_ended, [*elsewhere, str(SANDNET), *command])
            assert refused.returncode == 1
            assert "another" in refused.stderr
    assert world.is_running()
    world.down()
    assert world.process
    assert world.process.wait(40) == 0
    assert world.facts() == world.before


def _ended(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_given_a_flushed_ruleset_and_no_state_when_starting_then_only_ports_are_lost(fresh_world: World) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo")
    web = world.box("foo", "web", mapping(80, 8080))
    peer = world.box("foo", "peer")
    world.kill()
    without_state(world)
    world.host.sh("nft", "flush", "ruleset")
    world.start()
    assert world.api.told("foo", "web")["port_mapping"] == []
    assert peer.reaches(web.address)
    _end_well(world)
