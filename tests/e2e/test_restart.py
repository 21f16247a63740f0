"""The daemon stops, dies and comes back; traffic goes on, and nothing is given out twice or left over."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    PREDEFINED,
    SANDNET,
    RefusedError,
    World,
    ids,
    mapping,
    state_of,
)
from tests.support.traffic import PAUSE, TCP, UDP, ask_again, until

pytestmark = pytest.mark.timeout(120)
ENDINGS = pytest.mark.parametrize("ending", ["stop", "kill"])


def told(world: World) -> list[Any]:
    """Everything the daemon tells."""
    return [world.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")]


@ENDINGS
def test_given_traffic_when_the_daemon_ends_and_starts_then_it_never_pauses_and_all_is_as_before(
    world: World, ending: str
) -> None:
    world.api.network("foo", ipv6=True)
    web = world.box("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP), join={"host_name": "web"})
    peer = world.box("foo", "peer")
    for address in ("0.0.0.0", "::"):
        web.serve("web", 80, address=address)
        web.serve("web", 80, UDP, address=address)
    outside4, outside6 = world.outside.client(HOST_ADDRESS, 8080), world.outside.client(HOST_ADDRESS6, 8080)
    udp, inner = world.outside.client(HOST_ADDRESS, 8080, UDP), peer.client(web.address, 80)
    clients = [outside4, outside6, udp, inner]
    for client in clients:
        client.settimeout(PAUSE)
        assert ask_again(client).server == "web"
    before, rules, links = told(world), world.facts(), json.loads(world.host.sh("ip", "-j", "link"))

    with ThreadPoolExecutor(len(clients)) as pool:
        done: list[bool] = []
        talks = [pool.submit(talk_until, lambda: bool(done), client) for client in clients]
        try:
            getattr(world, ending)()
            assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
            assert peer.reaches(web.address)
            world.start()
        finally:
            done.append(True)
        assert all(talk.result() > 5 for talk in talks)

    assert told(world) == before
    assert world.facts() == rules
    now = json.loads(world.host.sh("ip", "-j", "link"))
    assert [(link["ifname"], link["ifindex"]) for link in now] == [(link["ifname"], link["ifindex"]) for link in links]
    assert world.api.get("/healthz")["status"] == "ok"


def talk_until(done: Callable[[], bool], client: Any) -> int:
    """How many questions were answered, none late, until it is done."""
    asked = 0
    while not done():
        assert ask_again(client).server == "web"
        asked += 1
        time.sleep(0.01)
    return asked


@ENDINGS
def test_given_addresses_and_ports_in_use_when_restarted_then_they_are_not_given_out_again(
    world: World, ending: str
) -> None:
    world.api.network("foo", subnet="10.9.0.0/24", ipv6=True)
    old = [world.box("foo", f"old{i}", mapping(80)) for i in range(3)]
    world.api.network("bar")
    subnets = {subnet for net in world.api.get("/networks", verbose="true") for subnet in net.get("subnets", [])}
    getattr(world, ending)()
    world.start()
    new = [world.box("foo", f"new{i}", mapping(80)) for i in range(3)]
    for what in ("address", "address6", "mac", "key"):
        assert len({getattr(box, what) for box in (*old, *new)}) == 6, what
    assert len({port for box in (*old, *new) for port in box.host_ports}) == 6
    assert new[0].address == "10.9.0.5"
    assert not subnets & set(world.api.told(world.api.network("baz"))["subnets"])
    with pytest.raises(RefusedError):
        world.api.network("clash", subnet="10.9.0.0/25")
    for box in old:
        with pytest.raises(OSError):
            world.here.bound("0.0.0.0", TCP, box.host_ports[0])
        with pytest.raises(RefusedError):
            world.api.endpoint("bar", "late", mapping(80, box.host_ports[0]))
    old[0].serve("old", 80)
    assert world.outside.ask(HOST_ADDRESS, old[0].host_ports[0]).server == "old"


@ENDINGS
def test_given_a_joined_namespace_when_left_after_a_restart_then_it_is_given_back(world: World, ending: str) -> None:
    theirs = world.place(world.host.container().path)
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    before = state_of(theirs)
    world.attach("foo", "one", "c1", netns=theirs.namespace)
    getattr(world, ending)()
    world.start()
    world.api.leave("foo", "one", "c1")
    assert state_of(theirs) == before


def test_given_kernel_objects_lost_while_the_daemon_is_away_when_it_starts_then_they_are_made_again(
    world: World,
) -> None:
    network = world.api.network("foo")
    web = world.box("foo", "web", mapping(80, 8080))
    world.stop()
    world.host.sh("nft", "flush", "ruleset")
    world.host.sh("ip", "link", "delete", f"snb{network[:10]}")
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
    world.start()
    web.serve("web", 80)
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert web.reaches("198.51.100.2")


def test_given_many_networks_and_forwarding_off_when_the_daemon_starts_then_every_link_forwards(world: World) -> None:
    """Two writers of net.ipv4.ip_forward at a time can leave it on, and every link's own parameter off."""
    for i in range(12):
        world.api.network(f"n{i}", ipv6=True)
    world.stop()
    world.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    world.start()
    for link in ("uplink", *world.our_links()):
        for ip in ("ipv4", "ipv6") if link == "uplink" else ("ipv4",):
            assert world.host.sh("sysctl", "-n", f"net.{ip}.conf.{link}.forwarding").strip() == "1", link


def test_given_a_sandbox_lost_while_the_daemon_is_away_when_it_starts_then_its_endpoint_is_free(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one", mapping(80, 8080))
    world.stop()
    world.host.sh("umount", box.key)
    world.start()
    assert world.api.get("/sandboxes") == []
    again = world.attach("foo", "one", "c2")
    assert again.address == box.address
    assert again.reaches("198.51.100.2")


def test_given_a_second_daemon_when_started_then_it_refuses_and_the_first_goes_on(world: World) -> None:
    with pytest.raises(AssertionError, match="another"):
        world.host.sh(str(SANDNET), "daemon", *world.directories)
    assert world.api.get("/healthz")["status"] == "ok"


@pytest.mark.parametrize("seed", range(3))
def test_given_20_operations_when_killed_amid_them_then_the_next_start_makes_kernel_and_records_equal(
    world: World, seed: int
) -> None:
    chance = random.Random(seed)
    world.api.network("base")
    for i in range(12):
        world.api.endpoint("base", f"e{i}", mapping(80))
    for i in range(6):
        world.api.join("base", f"e{i}", f"c{i}")
    jobs = operations(world)
    chance.shuffle(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(cut_short, job) for job in jobs]
        time.sleep(chance.uniform(0.005, 0.15))
        world.kill()
        for each in running:
            each.result()
    world.start()
    health = world.api.get("/healthz")
    assert (health["status"], health["problems"]) == ("ok", [])
    assert_kernel_equals_records(world)
    for net in ("n0", "n1", "base"):
        if not world.api.get("/networks", name=net):
            world.api.network(net)
        assert world.box(net, "again", mapping(80)).reaches("198.51.100.2")


def operations(world: World) -> list[Callable[[], object]]:
    """20 of all kinds."""
    api = world.api
    jobs: list[Callable[[], object]] = []
    for i in range(4):
        jobs.append(partial(api.network, f"n{i}", ipv6=bool(i % 2)))
        jobs.append(partial(api.endpoint, "base", f"x{i}", mapping(80), mapping(53, 0, UDP)))
        jobs.append(partial(api.join, "base", f"e{6 + i}", f"c{6 + i}"))
        jobs.append(partial(api.leave, "base", f"e{i}", f"c{i}"))
        jobs.append(partial(api.delete, f"/networks/base/endpoints/e{8 + i}"))
    return jobs


def cut_short(job: Callable[[], object]) -> None:
    """The daemon may die before it answers, and one operation may be refused for another's sake."""
    try:
        job()
    except (httpx.TransportError, RefusedError):
        return


def assert_kernel_equals_records(world: World) -> None:
    """Links, namespaces, rules, held ports, files and claims: one for each record, and none besides."""
    networks = world.api.get("/networks", verbose="true")
    boxes = world.api.get("/sandboxes", verbose="true")
    services = world.api.get("/services", verbose="true")
    bridges = {f"snb{net['id'][:10]}" for net in networks if net["type"] == "bridge"}
    interfaces = [interface for box in boxes for interface in box["interfaces"]]
    until(lambda: len(world.our_links()) == len(bridges) + len(interfaces))
    assert bridges <= set(world.our_links())
    assert world.pinned() == sorted(box["sandbox_key"] for box in boxes)
    assert sorted(path.name for path in world.netns.iterdir()) == sorted(
        box["sandbox_key"].rpartition("/")[2] for box in boxes
    )
    assert sorted(path.name for path in (world.state / "sandboxes").iterdir()) == sorted(ids(boxes))
    for box in boxes:
        inside = {
            link["ifname"]: link for link in json.loads(world.place(box["sandbox_key"]).sh("ip", "-j", "address"))
        }
        assert set(inside) == {"lo", *(interface["interface"] for interface in box["interfaces"])}
        for interface in box["interfaces"]:
            assert interface["address"].partition("/")[0] in {
                a["local"] for a in inside[interface["interface"]]["addr_info"]
            }
    ports = [(port["proto"], port["host_port"]) for service in services for port in service["port_mapping"]]
    assert sorted(elements(world, "any4")) == sorted(ports)
    assert {name for (name,) in elements(world, "bridges")} == bridges
    listed = [line.split() for line in world.host.sh("ss", "-Huan").splitlines()]
    held = {int(local.rpartition(":")[2]) for _, _, _, local, *_ in listed}
    assert {port for proto, port in ports if proto == UDP} <= held
    assert_claims(world, networks, services)


def elements(world: World, name: str) -> list[tuple[Any, ...]]:
    """The keys of a set or map of our table."""
    kind = "map" if name.startswith("any") else "set"
    listed = json.loads(world.host.sh("nft", "-j", "-n", "list", kind, "inet", "sandnet", name))
    found = listed["nftables"][1][kind].get("elem", [])
    keys = [each[0] if kind == "map" else each for each in found]
    return [tuple(key["concat"]) if isinstance(key, dict) else (key,) for key in keys]


def assert_claims(world: World, networks: Sequence[Any], services: Sequence[Any]) -> None:
    """The store holds a name claim for every network and service, and no phase but ready."""
    with sqlite3.connect(f"file:{world.state / 'sandnet.db'}?mode=ro", uri=True) as store:
        (table,) = [name for (name,) in store.execute("select name from sqlite_master where type='table'")
                    if "key" in [column[1] for column in store.execute(f"pragma table_info({name})")]]  # fmt: skip
        rows = dict(store.execute(f"select key, value from {table}"))
    store.close()
    names = [key for key in rows if key.startswith("claim/name/")]
    assert len(names) == len(networks) + len(services)
    phases = {json.loads(value)["phase"] for key, value in rows.items()
              if key.partition("/")[0] in ("network", "endpoint", "sandbox", "attachment")}  # fmt: skip
    assert phases == {"ready"}


def test_given_networks_and_sandboxes_when_down_then_the_host_is_as_it_was(fresh_world: World) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo", ipv6=True)
    world.api.network("bar")
    box = world.box("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP))
    world.api.endpoint("bar", "second")
    world.attach("bar", "second", box.container)
    world.box("host", "app")
    world.box("none", "alone")
    theirs = world.place(world.host.container().path)
    before = state_of(theirs)
    world.box("foo", "joined", join={"netns": theirs.namespace})
    world.stack.close()
    world.down()
    assert not world.is_running()
    assert world.facts() == world.before
    assert state_of(theirs) == before
    assert not world.state.exists()
    assert not world.netns.exists()
    world.down()


def test_given_a_killed_daemon_when_down_then_the_host_is_as_it_was(fresh_world: World) -> None:
    world = fresh_world
    world.start()
    world.api.network("foo", ipv6=True)
    world.box("foo", "web", mapping(80, 8080))
    with ThreadPoolExecutor(8) as pool:
        creates = [pool.submit(cut_short, partial(world.api.network, f"n{i}")) for i in range(8)]
        time.sleep(0.02)
        world.kill()
        for each in creates:
            each.result()
    world.down()
    assert world.facts() == world.before


def test_given_a_start_with_predefined_networks_when_listed_then_they_come_first_and_cannot_be_deleted(
    world: World,
) -> None:
    found = world.api.get("/networks")
    assert [net["name"] for net in found] == PREDEFINED
    assert [net["type"] for net in found] == ["null", "host", "bridge"]
    for net in found:
        with pytest.raises(RefusedError) as refused:
            world.api.delete(f"/networks/{net['id']}")
        assert refused.value.status == 403


def test_given_a_client_that_hangs_up_when_joining_then_the_join_is_whole(world: World) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    body = b'{"container_id": "c1"}'
    head = f"POST /networks/foo/endpoints/one/containers HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(world.run / "sandnet.sock"))
        client.sendall(head.encode() + body)
    until(lambda: world.api.get("/sandboxes"))
    (box,) = world.api.get("/sandboxes", verbose="true")
    assert (box["state"], len(box["interfaces"])) == ("ready", 1)
    assert world.place(box["sandbox_key"]).reaches("198.51.100.2")
