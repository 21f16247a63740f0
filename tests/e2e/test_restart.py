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

from sandnet.kernel.types import PREPARED
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    PREDEFINED,
    SANDNET,
    RefusedError,
    RunningDaemon,
    ids,
    mapping,
    state_of,
)
from tests.support.traffic import TCP, UDP, Seen, ask_again, ask_promptly, until

pytestmark = pytest.mark.timeout(120)
ENDINGS = pytest.mark.parametrize("ending", ["stop", "kill"])


def reported(daemon: RunningDaemon) -> list[Any]:
    """Everything the daemon reports."""
    return [daemon.api.get(f"/{what}", verbose="true") for what in ("networks", "services", "sandboxes")]


def is_well(daemon: RunningDaemon) -> bool:
    """Whether nothing is wrong; the resolver may begin to answer a moment after the daemon is ready."""
    health = daemon.api.get("/healthz")
    return bool(health["status"] == "ok" and health["problems"] == [])


@ENDINGS
def test_restart_does_not_interrupt_traffic_or_change_objects(daemon: RunningDaemon, ending: str) -> None:
    daemon.api.network("foo", ipv6=True)
    web = daemon.sandbox("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP), join={"host_name": "web"})
    peer = daemon.sandbox("foo", "peer")
    for address in ("0.0.0.0", "::"):
        web.serve("web", 80, address=address)
        web.serve("web", 80, UDP, address=address)
    outside4, outside6 = daemon.outside.client(HOST_ADDRESS, 8080), daemon.outside.client(HOST_ADDRESS6, 8080)
    udp, inner = daemon.outside.client(HOST_ADDRESS, 8080, UDP), peer.client(web.address, 80)
    clients = [outside4, outside6, udp, inner]
    for client in clients:
        assert ask_again(client).server == "web"
    before, rules, links = reported(daemon), daemon.facts(), links_in_use(daemon)

    with ThreadPoolExecutor(len(clients)) as pool:
        done: list[bool] = []
        talks = [pool.submit(talk_until, lambda: bool(done), client) for client in clients]
        try:
            getattr(daemon, ending)()
            assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
            assert peer.reaches(web.address)
            daemon.start()
        finally:
            done.append(True)
        assert all(talk.result() > 5 for talk in talks)

    assert reported(daemon) == before
    assert daemon.facts() == rules
    assert links_in_use(daemon) == links
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")


def talk_until(
    done: Callable[[], bool], client: socket.socket, ask: Callable[[socket.socket], Seen] = ask_promptly
) -> int:
    """How many questions were answered, none late, until it is done."""
    asked = 0
    while not done():
        assert ask(client).server == "web"
        asked += 1
        time.sleep(0.01)
    return asked


@ENDINGS
def test_restart_does_not_reassign_addresses_and_ports_in_use(daemon: RunningDaemon, ending: str) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/24", ipv6=True)
    old = [daemon.sandbox("foo", f"old{i}", mapping(80)) for i in range(3)]
    daemon.api.network("bar")
    subnets = {subnet for net in daemon.api.get("/networks", verbose="true") for subnet in net.get("subnets", [])}
    getattr(daemon, ending)()
    daemon.start()
    new = [daemon.sandbox("foo", f"new{i}", mapping(80)) for i in range(3)]
    for what in ("address", "address6", "mac", "key"):
        assert len({getattr(sandbox, what) for sandbox in (*old, *new)}) == 6, what
    assert len({port for sandbox in (*old, *new) for port in sandbox.host_ports}) == 6
    assert new[0].address == "10.9.0.5"
    assert not subnets & set(daemon.api.reported(daemon.api.network("baz"))["subnets"])
    with pytest.raises(RefusedError):
        daemon.api.network("clash", subnet="10.9.0.0/25")
    for sandbox in old:
        with pytest.raises(OSError):
            daemon.here.bound("0.0.0.0", TCP, sandbox.host_ports[0])
        with pytest.raises(RefusedError):
            daemon.api.endpoint("bar", "late", mapping(80, sandbox.host_ports[0]))
    old[0].serve("old", 80)
    assert daemon.outside.ask(HOST_ADDRESS, old[0].host_ports[0]).server == "old"


@ENDINGS
def test_joined_namespace_is_restored_by_leave_after_a_restart(daemon: RunningDaemon, ending: str) -> None:
    theirs = daemon.place(daemon.host.container().path)
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    before = state_of(theirs)
    daemon.attach("foo", "one", "c1", netns=theirs.namespace)
    getattr(daemon, ending)()
    daemon.start()
    daemon.api.leave("foo", "one", "c1")
    assert state_of(theirs) == before


def test_kernel_objects_lost_during_downtime_are_restored(
    daemon: RunningDaemon,
) -> None:
    network = daemon.api.network("foo")
    web = daemon.sandbox("foo", "web", mapping(80, 8080))
    daemon.stop()
    daemon.host.sh("nft", "flush", "ruleset")
    daemon.host.sh("ip", "link", "delete", f"snb{network[:10]}")
    daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
    daemon.start()
    web.serve("web", 80)
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "web"
    assert web.reaches("198.51.100.2")


def test_every_link_forwards_after_start_with_forwarding_off(daemon: RunningDaemon) -> None:
    """Two writers of net.ipv4.ip_forward at a time can leave it on, and every link's own parameter off."""
    for i in range(12):
        daemon.api.network(f"n{i}", ipv6=True)
    daemon.stop()
    daemon.host.sh("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    daemon.start()
    for link in ("uplink", *daemon.our_links()):
        for ip in ("ipv4", "ipv6") if link == "uplink" else ("ipv4",):
            assert daemon.host.sh("sysctl", "-n", f"net.{ip}.conf.{link}.forwarding").strip() == "1", link


def test_endpoint_of_a_sandbox_lost_during_downtime_is_free(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one", mapping(80, 8080))
    daemon.stop()
    daemon.host.sh("umount", sandbox.key)
    daemon.start()
    assert daemon.api.get("/sandboxes") == []
    again = daemon.attach("foo", "one", "c2")
    assert again.address == sandbox.address
    assert again.reaches("198.51.100.2")


def test_second_daemon_is_refused_and_the_first_keeps_serving(daemon: RunningDaemon) -> None:
    with pytest.raises(AssertionError, match="another"):
        daemon.host.sh(str(SANDNET), "daemon", *daemon.directories)
    until(lambda: daemon.api.get("/healthz")["status"] == "ok")


def links_in_use(daemon: RunningDaemon) -> list[tuple[str, int]]:
    """Names and indexes of the host's links, without those of prepared sandboxes."""
    found = json.loads(daemon.host.sh("ip", "-j", "link"))
    return [(link["ifname"], link["ifindex"]) for link in found if link["group"] != str(PREPARED)]


@pytest.mark.parametrize("seed", range(3))
def test_kernel_equals_records_after_a_kill_in_20_operations(daemon: RunningDaemon, seed: int) -> None:
    chance = random.Random(seed)
    daemon.api.network("base")
    for i in range(12):
        daemon.api.endpoint("base", f"e{i}", mapping(80))
    for i in range(6):
        daemon.api.join("base", f"e{i}", f"c{i}")
    jobs = operations(daemon)
    chance.shuffle(jobs)
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(cut_short, job) for job in jobs]
        time.sleep(chance.uniform(0.005, 0.15))
        daemon.kill()
        for each in running:
            each.result()
    daemon.start()
    until(lambda: is_well(daemon))
    assert_kernel_equals_records(daemon)
    for net in ("n0", "n1", "base"):
        if not daemon.api.get("/networks", name=net):
            daemon.api.network(net)
        assert daemon.sandbox(net, "again", mapping(80)).reaches("198.51.100.2")


def operations(daemon: RunningDaemon) -> list[Callable[[], object]]:
    """20 of all kinds."""
    api = daemon.api
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


def assert_kernel_equals_records(daemon: RunningDaemon) -> None:
    """Links, namespaces, rules, held ports, files and claims: one for each record, and none besides."""
    networks = daemon.api.get("/networks", verbose="true")
    sandboxes = daemon.api.get("/sandboxes", verbose="true")
    services = daemon.api.get("/services", verbose="true")
    bridges = {f"snb{net['id'][:10]}" for net in networks if net["type"] == "bridge"}
    interfaces = [interface for sandbox in sandboxes for interface in sandbox["interfaces"]]
    until(lambda: len(daemon.our_links()) == len(bridges) + len(interfaces))
    assert bridges <= set(daemon.our_links())
    assert daemon.pinned() == sorted(sandbox["sandbox_key"] for sandbox in sandboxes)
    assert sorted(path.name for path in daemon.netns.iterdir()) == sorted(
        sandbox["sandbox_key"].rpartition("/")[2] for sandbox in sandboxes
    )
    assert sorted(path.name for path in (daemon.run / "sandboxes").iterdir()) == sorted(ids(sandboxes))
    for sandbox in sandboxes:
        inside = {
            link["ifname"]: link for link in json.loads(daemon.place(sandbox["sandbox_key"]).sh("ip", "-j", "address"))
        }
        assert set(inside) == {"lo", *(interface["interface"] for interface in sandbox["interfaces"])}
        for interface in sandbox["interfaces"]:
            assert interface["address"].partition("/")[0] in {
                a["local"] for a in inside[interface["interface"]]["addr_info"]
            }
    ports = [(port["proto"], port["host_port"]) for service in services for port in service["port_mapping"]]
    assert sorted(elements(daemon, "any4")) == sorted(ports)
    assert {name for (name,) in elements(daemon, "bridges")} == bridges
    listed = [line.split() for line in daemon.host.sh("ss", "-Huan").splitlines()]
    held = {int(local.rpartition(":")[2]) for _, _, _, local, *_ in listed}
    assert {port for proto, port in ports if proto == UDP} <= held
    assert_claims(daemon, networks, services)


def elements(daemon: RunningDaemon, name: str) -> list[tuple[Any, ...]]:
    """The keys of a set or map of our table."""
    kind = "map" if name.startswith("any") else "set"
    listed = json.loads(daemon.host.sh("nft", "-j", "-n", "list", kind, "inet", "sandnet", name))
    found = listed["nftables"][1][kind].get("elem", [])
    keys = [each[0] if kind == "map" else each for each in found]
    return [tuple(key["concat"]) if isinstance(key, dict) else (key,) for key in keys]


def assert_claims(daemon: RunningDaemon, networks: Sequence[Any], services: Sequence[Any]) -> None:
    """The store holds a name claim for every network and service, and no phase but ready."""
    with sqlite3.connect(f"file:{daemon.state / 'sandnet.db'}?mode=ro", uri=True) as store:
        (table,) = [name for (name,) in store.execute("select name from sqlite_master where type='table'")
                    if "key" in [column[1] for column in store.execute(f"pragma table_info({name})")]]  # fmt: skip
        rows = dict(store.execute(f"select key, value from {table}"))
    store.close()
    names = [key for key in rows if key.startswith("claim/name/")]
    assert len(names) == len(networks) + len(services)
    phases = {json.loads(value)["phase"] for key, value in rows.items()
              if key.partition("/")[0] in ("network", "endpoint", "sandbox", "attachment")}  # fmt: skip
    assert phases == {"ready"}


def test_down_restores_the_host(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo", ipv6=True)
    daemon.api.network("bar")
    sandbox = daemon.sandbox("foo", "web", mapping(80, 8080), mapping(80, 8080, UDP))
    daemon.api.endpoint("bar", "second")
    daemon.attach("bar", "second", sandbox.container)
    daemon.sandbox("host", "app")
    daemon.sandbox("none", "alone")
    theirs = daemon.place(daemon.host.container().path)
    before = state_of(theirs)
    daemon.sandbox("foo", "joined", join={"netns": theirs.namespace})
    daemon.stack.close()
    daemon.down()
    assert not daemon.is_running()
    assert daemon.facts() == daemon.before
    assert state_of(theirs) == before
    assert not daemon.state.exists()
    assert not daemon.netns.exists()
    daemon.down()


def test_down_after_a_killed_daemon_restores_the_host(fresh_daemon: RunningDaemon) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("foo", ipv6=True)
    daemon.sandbox("foo", "web", mapping(80, 8080))
    with ThreadPoolExecutor(8) as pool:
        creates = [pool.submit(cut_short, partial(daemon.api.network, f"n{i}")) for i in range(8)]
        time.sleep(0.02)
        daemon.kill()
        for each in creates:
            each.result()
    daemon.down()
    assert daemon.facts() == daemon.before


def test_predefined_networks_are_listed_first_and_undeletable(
    daemon: RunningDaemon,
) -> None:
    found = daemon.api.get("/networks")
    assert [net["name"] for net in found] == PREDEFINED
    assert [net["type"] for net in found] == ["null", "host", "bridge"]
    for net in found:
        with pytest.raises(RefusedError) as refused:
            daemon.api.delete(f"/networks/{net['id']}")
        assert refused.value.status == 403


def test_join_completes_after_the_client_disconnects(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    body = b'{"container_id": "c1"}'
    head = f"POST /networks/foo/endpoints/one/containers HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.run / "sandnet.sock"))
        client.sendall(head.encode() + body)
    until(lambda: daemon.api.get("/sandboxes"))
    (sandbox,) = daemon.api.get("/sandboxes", verbose="true")
    assert (sandbox["state"], len(sandbox["interfaces"])) == ("ready", 1)
    assert daemon.place(sandbox["sandbox_key"]).reaches("198.51.100.2")
