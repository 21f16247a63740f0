"""Services with several backends in a real kernel: real connections, datagrams and pings."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from sandnet.firewall.balancing.flow_learning import FULL
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.model import Affinity
from tests.kernel.services import PORT, PUBLISHED, SERVER, SERVICE, SERVICE6, World, asked, names
from tests.support.network_host import Host, eventually

UDP = socket.SOCK_DGRAM
TCP = socket.SOCK_STREAM
COUNTED = re.compile(r"[^{},]* ct count over \d+")
"""Elements that count the flows of an address: the kernel removes them once the flows have ended."""
BRIDGE_NF = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


@pytest.fixture(params=["1", "0"], ids=["br_netfilter", "plain"])
def world(host: Host, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(host)
    for name in BRIDGE_NF:
        if host.run(made.kernel.sysctl.get, name) is not None:
            host.run(made.kernel.sysctl.set, name, request.param)
    yield made
    made.close()


@pytest.mark.parametrize(("kind", "target"), [(TCP, SERVICE), (TCP, SERVICE6), (UDP, SERVICE), (UDP, SERVICE6)])
def test_given_three_backends_when_300_flows_come_then_they_are_spread_and_see_the_client(
    world: World, kind: int, target: str
) -> None:
    ep = world.service()
    for number in (1, 2, 3):
        world.attach(ep, number + 10)
    said = world.ask(world.client(), 300, kind, target)
    assert all(60 <= count <= 140 for count in names(said).values()), names(said)
    assert len(names(said)) == 3
    assert {peer for _, peer in said} == {"10.9.0.200" if target == SERVICE else "fd09::200"}


def test_given_weights_when_flows_come_then_they_follow_them(world: World) -> None:
    ep = world.service()
    world.attach(ep, 11, weight=1)
    world.attach(ep, 12, weight=3)
    said = names(world.ask(world.client(), 300))
    assert 40 <= said["b11"] <= 110, said


@pytest.mark.parametrize("target", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_given_a_published_service_when_strangers_call_then_all_backends_answer_and_see_them(
    world: World, kind: int, target: str
) -> None:
    ep = world.service(ports=True)
    for number in (11, 12, 13):
        world.attach(ep, number)
    said = world.ask(world.outsider(), 150, kind, target, PUBLISHED)
    assert set(names(said)) == {"b11", "b12", "b13"}
    assert {peer for _, peer in said} == {"192.0.2.2" if "." in target else "2001:db8::2"}


@pytest.mark.parametrize(
    ("target", "port"),
    [(SERVICE, PORT), (SERVICE6, PORT), ("127.0.0.1", PUBLISHED), ("10.9.0.1", PUBLISHED), ("fd09::1", PUBLISHED)],
)
def test_given_a_service_when_the_host_calls_then_all_backends_answer(world: World, target: str, port: int) -> None:
    ep = world.service(ports=True)
    for number in (11, 12, 13):
        world.attach(ep, number)
    assert set(names(world.ask("", 60, TCP, target, port))) == {"b11", "b12", "b13"}
    assert set(names(world.ask("", 60, UDP, target, port))) == {"b11", "b12", "b13"}


def test_given_a_published_service_when_a_neighbour_calls_the_host_then_all_backends_answer(world: World) -> None:
    ep = world.service(ports=True)
    for number in (11, 12, 13):
        world.attach(ep, number)
    client = world.client()
    assert set(names(world.ask(client, 60, TCP, "10.9.0.1", PUBLISHED))) == {"b11", "b12", "b13"}
    # and one of its own backends
    assert set(names(world.ask(world.key("b12"), 60, TCP, "10.9.0.1", PUBLISHED))) == {"b11", "b12", "b13"}


def test_given_several_backends_when_pinged_then_each_client_hears_from_one(world: World) -> None:
    ep = world.service()
    for number in (11, 12, 13):
        world.attach(ep, number)
    client = world.client()
    assert world.host.reaches(SERVICE, namespace=client)
    assert world.host.reaches(SERVICE6, namespace=client)
    assert world.host.reaches(SERVICE)


def test_given_a_backend_when_it_calls_its_service_then_it_reaches_itself(world: World) -> None:
    ep = world.service()
    for number in (11, 12):
        world.attach(ep, number)
    for name in ("b11", "b12"):
        assert set(names(world.ask(world.key(name), 20))) == {name}
        assert set(names(world.ask(world.key(name), 20, TCP, SERVICE6))) == {name}


def test_given_client_affinity_when_one_client_calls_then_one_backend_answers(world: World) -> None:
    ep = world.service(affinity=Affinity.CLIENT, ports=True)
    for number in (11, 12, 13):
        world.attach(ep, number)
    clients = [world.client(number) for number in range(200, 212)]
    heard = set()
    for client in clients:
        for kind, target in ((TCP, SERVICE), (UDP, SERVICE6)):
            said = names(world.ask(client, 10, kind, target))
            assert len(said) == 1
        heard.add(next(iter(names(world.ask(client, 1)))))
    assert len(heard) > 1
    assert len(names(world.ask(world.outsider(), 20, TCP, "192.0.2.1", PUBLISHED))) == 1


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_given_established_flows_when_backends_come_and_go_then_those_of_the_others_stay(
    world: World, kind: int, target: str
) -> None:
    ep = world.service()
    first = world.attach(ep, 11)
    second = world.attach(ep, 12)
    client = world.client()
    flows = world.sockets(client, 60, kind, target)
    before = [asked(flow)[0] for flow in flows]
    world.attach(ep, 13)
    assert [asked(flow)[0] for flow in flows] == before
    world.change(ep, second, drained=True)
    assert [asked(flow)[0] for flow in flows] == before
    assert "b12" not in names(world.ask(client, 60, kind, target))
    world.restart()
    assert [asked(flow)[0] for flow in flows] == before
    assert "b12" not in names(world.ask(client, 60, kind, target))
    world.detach(ep, first)
    kept = [(flow, name) for flow, name in zip(flows, before, strict=True) if name == "b12"]
    assert kept
    assert [asked(flow)[0] for flow, _ in kept] == ["b12"] * len(kept)
    assert set(names(world.ask(client, 40, kind, target))) == {"b13"}


def test_given_tcp_flows_of_one_backend_when_a_second_comes_then_they_stay(world: World) -> None:
    ep = world.service()
    world.attach(ep, 11)
    client = world.client()
    flows = [*world.sockets(client, 40), *world.sockets(client, 40, TCP, SERVICE6)]
    for flow in flows:
        asked(flow)
    world.attach(ep, 12)
    world.attach(ep, 13)
    assert {asked(flow)[0] for flow in flows} == {"b11"}


def test_given_flows_of_a_backend_that_is_gone_when_they_go_on_then_a_live_one_answers_at_once(world: World) -> None:
    ep = world.service()
    for number in (11, 12):
        world.attach(ep, number)
    client = world.client()
    streams, datagrams = world.sockets(client, 40), world.sockets(client, 40, UDP)
    on_second = [flow for flow in streams if asked(flow)[0] == "b12"]
    assert on_second
    assert {asked(flow)[0] for flow in datagrams} == {"b11", "b12"}
    world.detach(ep, world.backends[ep.id][1])
    for flow in on_second:
        with pytest.raises(ConnectionResetError):
            asked(flow)
    assert {asked(flow)[0] for flow in datagrams} == {"b11"}


def test_given_a_client_that_closed_its_half_when_the_answer_goes_on_then_the_flow_is_not_forgotten(
    world: World,
) -> None:
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    servers = [world.host.inside(world.key(name), socket.create_server, ("", 9000)) for name in ("b11", "b12")]
    world.keep(*servers)
    (flow,) = world.sockets(world.client(), 1, port=9000)
    ready, _, _ = select.select(servers, [], [], 5)
    answering, _ = ready[0].accept()
    world.keep(answering)
    flow.shutdown(socket.SHUT_WR)
    eventually(lambda: 0 < _remaining(world) < 119_900)
    before = _remaining(world)
    answering.send(b"more")
    eventually(lambda: _remaining(world) > before)


def _remaining(world: World) -> int:
    """Milliseconds after which the only closing flow is forgotten; 0: there is none."""
    listed = world.host.sh("nft", "list", "map", "bridge", "sandnet", "closing_flows4")
    found = re.search(r"expires (?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", listed)
    minutes, seconds, milliseconds = (int(number or 0) for number in found.groups()) if found else (0, 0, 0)
    return minutes * 60_000 + seconds * 1000 + milliseconds


def test_given_unhealthy_and_drained_backends_when_no_other_is_left_then_they_serve(world: World) -> None:
    ep = world.service()
    first, second = world.attach(ep, 11), world.attach(ep, 12)
    client = world.client()
    first = world.change(ep, first, healthy=False)
    assert set(names(world.ask(client, 30))) == {"b12"}
    second = world.change(ep, second, drained=True)
    assert set(names(world.ask(client, 30))) == {"b12"}
    world.change(ep, second, healthy=False)
    assert set(names(world.ask(client, 30))) == {"b11"}
    assert set(names(world.ask("", 30))) == {"b11"}


BUSY = f"""
import pathlib, socket
failed = served = 0
while not pathlib.Path("/run/enough").exists():
    try:
        with socket.create_connection(("{SERVICE}", {PORT}), 2) as flow:
            for _ in range(3):
                flow.send(b"\\n")
                served += bool(flow.recv(100))
    except OSError:
        failed += 1
print(served, failed)
"""


def test_given_a_busy_client_when_backends_come_drain_and_go_then_no_request_fails(world: World) -> None:
    ep = world.service()
    first = world.attach(ep, 11)
    client = world.host.inside(world.client(), world.host.start_here, sys.executable, "-c", BUSY)
    for number in (12, 13):
        world.attach(ep, number)
    for leaving in (first, world.backends[ep.id][1]):
        drained = world.change(ep, leaving, drained=True)
        eventually(partial(_no_open_flows, world, leaving.container_id))
        world.detach(ep, next(one for one in world.backends[ep.id] if one.container_id == drained.container_id))
    world.restart()
    world.attach(ep, 14)
    world.host.sh("touch", "/run/enough")
    said, complaints = client.communicate(timeout=10)
    served, failed = map(int, said.split())
    assert (failed, complaints) == (0, "")
    assert served > 100


def _no_open_flows(world: World, name: str) -> bool:
    return not world.host.sh("ss", "-Htn", "state", "established", namespace=world.key(name))


@pytest.mark.parametrize("kind", [TCP, UDP])
@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_given_stale_neighbours_when_the_holder_leaves_then_the_service_answers_within_a_second(
    world: World, target: str, kind: int
) -> None:
    ep = world.service(ports=True)
    first = world.attach(ep, 11)
    client, outside = world.client(), world.outsider()
    world.ask(client, 1, kind, target)
    world.ask(outside, 1, kind, "192.0.2.1", PUBLISHED)
    world.ask("", 1, kind, target)
    world.attach(ep, 12)
    world.detach(ep, first)
    for where, to, port in ((client, target, PORT), ("", target, PORT), (outside, "192.0.2.1", PUBLISHED)):
        assert set(names(world.ask(where, 5, kind, to, port))) == {"b12"}
    assert world.host.reaches(target, namespace=client, seconds=1)


def test_given_a_takeover_when_neighbours_hear_of_it_then_they_know_the_new_mac(world: World) -> None:
    ep = world.service()
    first = world.attach(ep, 11)
    client = world.client()
    world.ask(client, 1)
    world.ask(client, 1, TCP, SERVICE6)
    second = world.attach(ep, 12)
    world.detach(ep, first)
    eventually(lambda: second.mac in world.host.sh("ip", "neigh", "show", SERVICE, namespace=client))
    eventually(lambda: second.mac in world.host.sh("ip", "neigh", "show", SERVICE6, namespace=client))


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_given_a_datagram_of_many_fragments_when_sent_then_one_backend_gets_all_and_answers(
    world: World, target: str
) -> None:
    ep = world.service()
    for number in (11, 12, 13):
        world.attach(ep, number)
    for client in (world.client(number) for number in range(200, 206)):
        (flow,) = world.sockets(client, 1, UDP, target)
        assert len({asked(flow, 20000) for _ in range(5)}) == 1


def test_given_a_holder_that_is_a_client_itself_when_it_asks_by_udp_then_it_gets_the_answers(world: World) -> None:
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    world.client(200)
    program = f"""
import asyncio
import re
import select
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", {PORT}))
print("ready", flush=True)
while True:
    d, p = s.recvfrom(100); s.sendto(b"c200 " + p[0].encode(), p)
"""

    server = world.host.inside(world.key("c200"), world.host.start_here, sys.executable, "-c", program)
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    for name, seen in (("b11", SERVICE), ("b12", "10.9.0.12")):
        assert set(world.ask(world.key(name), 40, UDP, "10.9.0.200")) == {("c200", seen)}


def test_given_sctp_when_packets_come_then_one_association_stays_with_one_backend(world: World) -> None:
    ep = world.service()
    world.attach(ep, 11)
    second = world.attach(ep, 12)
    client = world.client()
    listening = {name: _raw(world, name) for name in ("b11", "b12")}
    world.keep(*listening.values())
    initial = {port: _sctp(world, client, listening, port, 1) for port in range(5000, 5030)}
    assert set(initial.values()) == {"b11", "b12"}
    world.change(ep, second, drained=True)
    assert {port: _sctp(world, client, listening, port, 0) for port in initial} == initial
    assert {_sctp(world, client, listening, port, 1) for port in initial} == {"b11"}


def _raw(world: World, name: str) -> socket.socket:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
        made.setblocking(False)
        return made

    return world.host.inside(world.key(name), listen)


def _sctp(world: World, client: str, listening: dict[str, socket.socket], port: int, chunk: int) -> str:
    """Who gets an SCTP packet whose first chunk is of a type."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 132) as raw:
            raw.sendto(struct.pack("!HHIIBBH", port, 9000, 1, 0, chunk, 0, 20) + bytes(16), (SERVICE, 0))

    world.host.inside(client, send)
    found: list[str] = []

    def arrived() -> bool:
        for name, raw in listening.items():
            try:
                raw.recv(2048)
            except BlockingIOError:
                continue
            found.append(name)
        return bool(found)

    eventually(arrived)
    assert len(found) == 1
    return found[0]


def test_given_a_deleted_endpoint_when_looked_for_then_nothing_of_it_is_left(world: World) -> None:

    ep = world.service(ports=True)
    attached = [world.attach(ep, number) for number in (11, 12)]
    for _ in range(2):
        asyncio.run(world.driver.delete_endpoint(world.net, ep))
        asyncio.run(world.driver.unpublish(world.net, ep))
        for att in attached:
            asyncio.run(world.driver.leave(world.net, [att]))
    ruleset = COUNTED.sub("", world.host.sh("nft", "list", "ruleset"))
    assert SERVICE not in ruleset
    assert SERVICE6 not in ruleset


FLOODED = ("tcp_flows4", "udp_flows4", "sctp_flows4", "udp_answers4", "udp_peers4")


def _counted(world: World, name: str, kind: str = "map") -> int:
    return world.host.sh("nft", "list", kind, "bridge", "sandnet", name).count("expires")


def _flood(world: World, where: str, kind: int, count: int, port: int = PORT) -> None:
    """As many openings of flows from a namespace, each from another port of its own choice."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, kind) as raw:
            for number in range(1, 1 + count):
                ports = struct.pack("!HH", number, port)
                raw.sendto(ports + _OPENINGS[kind], (SERVICE, 0))

    world.host.inside(where, send)


_OPENINGS = {
    6: struct.pack("!IIBBHHH", 1, 0, 5 << 4, 2, 1000, 0, 0),
    17: struct.pack("!HH", 9, 0) + b"x",
    132: struct.pack("!IIBBH", 1, 0, 1, 0, 20) + bytes(16),
}


@pytest.mark.parametrize("kind", [6, 17, 132])
def test_given_a_sandbox_that_opens_flows_without_end_when_counted_then_it_has_no_more_than_its_room(
    world: World, kind: int, request: pytest.FixtureRequest
) -> None:
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    flooding, began = world.client(201), time.monotonic()
    _flood(world, flooding, kind, 50_000)
    name = {6: "tcp_flows4", 17: "udp_flows4", 132: "sctp_flows4"}[kind]
    learned = _counted(world, name) + _counted(world, name.replace("4", "_second4"))
    burst, rate = (32_768, 1_000) if kind == 6 else (16_384, 400)
    assert burst * 0.8 < learned < burst + rate * 1.25 * (time.monotonic() - began) + 100
    client = world.client()
    if kind != 132:
        flows = world.sockets(client, 30, UDP if kind == 17 else TCP)
        assert {asked(flow)[0] for flow in flows} == {"b11", "b12"}
    if not (kind == 17 and request.node.callspec.params["world"] == "1"):  # there its tracked flows are used up, too
        assert set(names(world.ask(world.key("c201"), 60))) == {"b11", "b12"}


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_given_no_room_for_flows_when_a_client_calls_then_it_is_served_by_all_and_its_flows_stay(
    world: World, target: str
) -> None:
    """As if others had filled everything that is shared."""
    ep = world.service()
    first = world.attach(ep, 11)
    second = world.attach(ep, 12)
    version = 6 if ":" in target else 4
    _shrink(world, version)
    client = world.client()
    datagrams, streams = world.sockets(client, 40, UDP, target), world.sockets(client, 60, TCP, target)
    assert {asked(flow)[0] for flow in datagrams} == {"b11", "b12"}
    before = [asked(flow)[0] for flow in streams]
    assert set(before) == {"b11", "b12"}
    world.change(ep, first, drained=True)
    assert [asked(flow)[0] for flow in streams] == before
    assert set(names(world.ask(client, 60, UDP, target))) == {"b12"}
    world.change(ep, first, drained=False)
    world.change(ep, second, drained=True)
    assert [asked(flow)[0] for flow in streams] == before
    assert set(names(world.ask(client, 60, TCP, target))) == {"b11"}
    reported = world.host.run(world.kernel.firewall.members, BRIDGE, FULL)
    assert {each.split()[0] for each in reported} == {"6", "17"}


def _shrink(world: World, version: int) -> None:
    """Have the shared maps hold nothing more: the rules that write to them are taken away."""
    written = ("tcp_flows", "udp_flows", "udp_answers", "udp_peers")
    for chain in ("tcp_learn", "tcp_learn_second", "udp_learn", "udp_learn_second", "udp_expect"):
        listed = world.host.sh("nft", "-a", "list", "chain", "bridge", "sandnet", f"{chain}{version}")
        for line in listed.splitlines():
            if any(f"update @{name}{version}" in line for name in written):
                handle = line.rpartition("# handle ")[2]
                world.host.sh("nft", "delete", "rule", "bridge", "sandnet", f"{chain}{version}", "handle", handle)


def test_given_a_frame_with_a_services_address_on_a_bridge_of_others_when_it_passes_then_it_is_left_alone(
    world: World,
) -> None:
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    world.host.sh("ip", "link", "add", "alien0", "type", "bridge")
    world.host.sh("ip", "link", "set", "alien0", "up")
    for name in ("one", "two"):
        world.host.run(world.kernel.namespaces.make, world.key(name))
        waiting = world.host.inside(world.key(name), world.host.start_here, "sleep", "600")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(waiting.pid))
        world.host.sh("ip", "link", "add", f"alien-{name}", *peer)
        world.host.sh("ip", "link", "set", f"alien-{name}", "master", "alien0", "up")
        world.host.sh("ip", "link", "set", "eth0", "up", namespace=world.key(name))
    world.host.sh("ip", "addr", "add", f"{SERVICE}/24", "dev", "eth0", namespace=world.key("two"))
    world.host.sh("ip", "addr", "add", "10.9.0.77/24", "dev", "eth0", namespace=world.key("one"))
    server = world.host.inside(world.key("two"), world.host.start_here, sys.executable, "-c", SERVER, "alien")
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    assert names(world.ask(world.key("one"), 40)) == {"alien": 40}
    assert names(world.ask(world.key("one"), 40, UDP)) == {"alien": 40}
    kinds = ["set" if name in ("udp_answers4", "udp_peers4") else "map" for name in FLOODED]
    assert [_counted(world, *each) for each in zip(FLOODED, kinds, strict=True)] == [0] * len(FLOODED)


def test_given_a_sandbox_of_another_network_when_it_sends_to_a_service_then_no_flow_is_learned(world: World) -> None:
    """A port of another number, on the same bridge even: it is the port that counts."""
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    client = world.client(201)
    world.host.sh("nft", "delete element bridge sandnet ports { snv201 }")
    world.host.sh("nft", "add element bridge sandnet ports { snv201 : 0x7 }")
    for kind in (6, 17, 132):
        _flood(world, client, kind, 100, 9)  # nobody answers there: the holder would speak for itself
    assert set(names(world.ask(client, 40))) == {"b11"}
    kinds = ["set" if name in ("udp_answers4", "udp_peers4") else "map" for name in FLOODED]
    assert [_counted(world, *each) for each in zip(FLOODED, kinds, strict=True)] == [0] * len(FLOODED)


@pytest.mark.parametrize("speaker", ["b11", "b12"])
def test_given_a_drained_backend_when_it_speaks_first_then_it_gains_no_flow(world: World, speaker: str) -> None:
    ep = world.service()
    first, second = world.attach(ep, 11), world.attach(ep, 12)
    world.change(ep, first if speaker == "b11" else second, drained=True)
    client = world.client()
    flows = world.sockets(client, 30, UDP)

    def speak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for flow in flows:
                said = struct.pack("!HHHH", PORT, flow.getsockname()[1], 9, 0) + b"x"
                ends = socket.inet_aton(SERVICE), socket.inet_aton("10.9.0.200")
                raw.sendto(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, *ends) + said, ("10.9.0.200", 0))

    world.host.inside(world.key(speaker), speak)
    for flow in flows:
        assert flow.recv(10) == b"x"
    assert {asked(flow)[0] for flow in flows} == {"b12" if speaker == "b11" else "b11"}


def test_given_a_restart_when_flows_go_on_then_the_hosts_secret_is_the_same_and_another_host_has_another(
    world: World,
) -> None:
    before = world.host.sh("nft", "list", "set", "bridge", "sandnet", "secret")
    world.restart()
    assert world.host.sh("nft", "list", "set", "bridge", "sandnet", "secret") == before
    asyncio.run(world.host_network.stop())
    world.restart()
    assert world.host.sh("nft", "list", "set", "bridge", "sandnet", "secret") != before


def test_given_one_backend_when_programmed_then_nothing_is_balanced(world: World) -> None:
    ep = world.service(ports=True)
    world.attach(ep, 11)
    assert SERVICE not in world.host.sh("nft", "list", "set", "bridge", "sandnet", "services4")


def test_given_a_stopped_driver_when_looked_for_then_both_tables_are_gone(world: World) -> None:

    asyncio.run(world.host_network.stop())
    asyncio.run(world.host_network.stop())
    assert "sandnet" not in world.host.sh("nft", "list", "ruleset")


def test_given_a_table_of_another_version_when_started_then_it_is_replaced(host: Host) -> None:
    host.sh("nft", "add table bridge sandnet")
    host.sh("nft", "add map bridge sandnet tcp_flows4 { type mark : ether_addr; }")
    world = World(host)
    ep = world.service()
    world.attach(ep, 11)
    world.attach(ep, 12)
    assert set(names(world.ask(world.client(), 30))) == {"b11", "b12"}
    world.close()
