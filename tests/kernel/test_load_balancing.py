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
from tests.support.balanced_services import PORT, PUBLISHED, SERVER, SERVICE, SERVICE6, BalancedHost, asked, names
from tests.support.jobs import run_step
from tests.support.network_host import Host, eventually

UDP = socket.SOCK_DGRAM
TCP = socket.SOCK_STREAM
COUNTED = re.compile(r"[^{},]* ct count over \d+")
"""Elements that count the flows of an address: the kernel removes them once the flows have ended."""
BRIDGE_NF = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


@pytest.fixture(params=["1", "0"], ids=["br_netfilter", "plain"])
def case(host: Host, request: pytest.FixtureRequest) -> Iterator[BalancedHost]:
    made = BalancedHost(host)
    for name in BRIDGE_NF:
        if host.run(made.kernel.sysctl.get, name) is not None:
            host.run(made.kernel.sysctl.set, name, request.param)
    yield made
    made.close()


@pytest.mark.parametrize(("kind", "target"), [(TCP, SERVICE), (TCP, SERVICE6), (UDP, SERVICE), (UDP, SERVICE6)])
def test_300_flows_are_spread_over_three_backends(case: BalancedHost, kind: int, target: str) -> None:
    ep = case.service()
    for number in (1, 2, 3):
        case.attach(ep, number + 10)
    printed = case.ask(case.client(), 300, kind, target)
    assert all(60 <= count <= 140 for count in names(printed).values()), names(printed)
    assert len(names(printed)) == 3
    assert {peer for _, peer in printed} == {"10.9.0.200" if target == SERVICE else "fd09::200"}


def test_flows_follow_the_weights(case: BalancedHost) -> None:
    ep = case.service()
    case.attach(ep, 11, weight=1)
    case.attach(ep, 12, weight=3)
    printed = names(case.ask(case.client(), 300))
    assert 40 <= printed["b11"] <= 110, printed


@pytest.mark.parametrize("target", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_outside_clients_reach_all_backends_unmasqueraded(case: BalancedHost, kind: int, target: str) -> None:
    ep = case.service(ports=True)
    for number in (11, 12, 13):
        case.attach(ep, number)
    printed = case.ask(case.outsider(), 150, kind, target, PUBLISHED)
    assert set(names(printed)) == {"b11", "b12", "b13"}
    assert {peer for _, peer in printed} == {"192.0.2.2" if "." in target else "2001:db8::2"}


@pytest.mark.parametrize(
    ("target", "port"),
    [(SERVICE, PORT), (SERVICE6, PORT), ("127.0.0.1", PUBLISHED), ("10.9.0.1", PUBLISHED), ("fd09::1", PUBLISHED)],
)
def test_host_reaches_all_backends_of_a_service(case: BalancedHost, target: str, port: int) -> None:
    ep = case.service(ports=True)
    for number in (11, 12, 13):
        case.attach(ep, number)
    assert set(names(case.ask("", 60, TCP, target, port))) == {"b11", "b12", "b13"}
    assert set(names(case.ask("", 60, UDP, target, port))) == {"b11", "b12", "b13"}


def test_neighbour_reaches_all_backends_by_the_host_address(case: BalancedHost) -> None:
    ep = case.service(ports=True)
    for number in (11, 12, 13):
        case.attach(ep, number)
    client = case.client()
    assert set(names(case.ask(client, 60, TCP, "10.9.0.1", PUBLISHED))) == {"b11", "b12", "b13"}
    # and one of its own backends
    assert set(names(case.ask(case.key("b12"), 60, TCP, "10.9.0.1", PUBLISHED))) == {"b11", "b12", "b13"}


def test_ping_of_a_service_is_answered_by_one_backend(case: BalancedHost) -> None:
    ep = case.service()
    for number in (11, 12, 13):
        case.attach(ep, number)
    client = case.client()
    assert case.host.reaches(SERVICE, namespace=client)
    assert case.host.reaches(SERVICE6, namespace=client)
    assert case.host.reaches(SERVICE)


def test_backend_calling_its_own_service_reaches_itself(case: BalancedHost) -> None:
    ep = case.service()
    for number in (11, 12):
        case.attach(ep, number)
    for name in ("b11", "b12"):
        assert set(names(case.ask(case.key(name), 20))) == {name}
        assert set(names(case.ask(case.key(name), 20, TCP, SERVICE6))) == {name}


def test_client_affinity_sends_one_client_to_one_backend(case: BalancedHost) -> None:
    ep = case.service(affinity=Affinity.CLIENT, ports=True)
    for number in (11, 12, 13):
        case.attach(ep, number)
    clients = [case.client(number) for number in range(200, 212)]
    received = set()
    for client in clients:
        for kind, target in ((TCP, SERVICE), (UDP, SERVICE6)):
            printed = names(case.ask(client, 10, kind, target))
            assert len(printed) == 1
        received.add(next(iter(names(case.ask(client, 1)))))
    assert len(received) > 1
    assert len(names(case.ask(case.outsider(), 20, TCP, "192.0.2.1", PUBLISHED))) == 1


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_established_flows_stay_as_other_backends_change(case: BalancedHost, kind: int, target: str) -> None:
    ep = case.service()
    first = case.attach(ep, 11)
    second = case.attach(ep, 12)
    client = case.client()
    flows = case.sockets(client, 60, kind, target)
    before = [asked(flow)[0] for flow in flows]
    case.attach(ep, 13)
    assert [asked(flow)[0] for flow in flows] == before
    case.change(ep, second, drained=True)
    assert [asked(flow)[0] for flow in flows] == before
    assert "b12" not in names(case.ask(client, 60, kind, target))
    case.restart()
    assert [asked(flow)[0] for flow in flows] == before
    assert "b12" not in names(case.ask(client, 60, kind, target))
    case.detach(ep, first)
    kept = [(flow, name) for flow, name in zip(flows, before, strict=True) if name == "b12"]
    assert kept
    assert [asked(flow)[0] for flow, _ in kept] == ["b12"] * len(kept)
    assert set(names(case.ask(client, 40, kind, target))) == {"b13"}


def test_tcp_flows_of_a_single_backend_stay_as_a_second_joins(case: BalancedHost) -> None:
    ep = case.service()
    case.attach(ep, 11)
    client = case.client()
    flows = [*case.sockets(client, 40), *case.sockets(client, 40, TCP, SERVICE6)]
    for flow in flows:
        asked(flow)
    case.attach(ep, 12)
    case.attach(ep, 13)
    assert {asked(flow)[0] for flow in flows} == {"b11"}


def test_flows_of_a_detached_backend_reach_another_at_once(case: BalancedHost) -> None:
    ep = case.service()
    for number in (11, 12):
        case.attach(ep, number)
    client = case.client()
    streams, datagrams = case.sockets(client, 40), case.sockets(client, 40, UDP)
    on_second = [flow for flow in streams if asked(flow)[0] == "b12"]
    assert on_second
    assert {asked(flow)[0] for flow in datagrams} == {"b11", "b12"}
    case.detach(ep, case.backends[ep.id][1])
    for flow in on_second:
        with pytest.raises(ConnectionResetError):
            asked(flow)
    assert {asked(flow)[0] for flow in datagrams} == {"b11"}


def test_half_closed_flow_is_not_forgotten(
    case: BalancedHost,
) -> None:
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    servers = [case.host.inside(case.key(name), socket.create_server, ("", 9000)) for name in ("b11", "b12")]
    case.keep(*servers)
    (flow,) = case.sockets(case.client(), 1, port=9000)
    ready, _, _ = select.select(servers, [], [], 5)
    answering, _ = ready[0].accept()
    case.keep(answering)
    flow.shutdown(socket.SHUT_WR)
    eventually(lambda: 0 < _remaining(case) < 119_000)
    before = _remaining(case)
    answering.send(b"more")
    eventually(lambda: _remaining(case) > before)


def _remaining(case: BalancedHost) -> int:
    """Milliseconds after which the only closing flow is forgotten; 0: there is none."""
    listed = case.host.sh("nft", "list", "map", "bridge", "sandnet", "closing_flows4")
    found = re.search(r"expires (?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", listed)
    minutes, seconds, milliseconds = (int(number or 0) for number in found.groups()) if found else (0, 0, 0)
    return minutes * 60_000 + seconds * 1000 + milliseconds


def test_unhealthy_and_drained_backends_serve_as_last_resort(case: BalancedHost) -> None:
    ep = case.service()
    first, second = case.attach(ep, 11), case.attach(ep, 12)
    client = case.client()
    first = case.change(ep, first, healthy=False)
    assert set(names(case.ask(client, 30))) == {"b12"}
    second = case.change(ep, second, drained=True)
    assert set(names(case.ask(client, 30))) == {"b12"}
    case.change(ep, second, healthy=False)
    assert set(names(case.ask(client, 30))) == {"b11"}
    assert set(names(case.ask("", 30))) == {"b11"}


BUSY = f"""
import pathlib, socket
failed = served = 0
while not pathlib.Path("/run/enough").exists():
    try:
        with socket.create_connection(("{SERVICE}", {PORT}), 15) as flow:
            for _ in range(3):
                flow.send(b"\\n")
                served += bool(flow.recv(100))
    except OSError:
        failed += 1
print(served, failed)
"""


def test_backend_changes_fail_no_request_of_a_busy_client(case: BalancedHost) -> None:
    ep = case.service()
    first = case.attach(ep, 11)
    client = case.host.inside(case.client(), case.host.start_here, sys.executable, "-c", BUSY)
    for number in (12, 13):
        case.attach(ep, number)
    for leaving in (first, case.backends[ep.id][1]):
        drained = case.change(ep, leaving, drained=True)
        eventually(partial(_no_open_flows, case, leaving.container_id))
        case.detach(ep, next(one for one in case.backends[ep.id] if one.container_id == drained.container_id))
    case.restart()
    case.attach(ep, 14)
    case.host.sh("touch", "/run/enough")
    printed, complaints = client.communicate(timeout=40)
    served, failed = map(int, printed.split())
    assert (failed, complaints) == (0, "")
    assert served > 100


def _no_open_flows(case: BalancedHost, name: str) -> bool:
    return not case.host.sh("ss", "-Htn", "state", "established", namespace=case.key(name))


@pytest.mark.parametrize("kind", [TCP, UDP])
@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_service_answers_within_a_second_after_the_holder_leaves(case: BalancedHost, target: str, kind: int) -> None:
    ep = case.service(ports=True)
    first = case.attach(ep, 11)
    client, outside = case.client(), case.outsider()
    case.ask(client, 1, kind, target)
    case.ask(outside, 1, kind, "192.0.2.1", PUBLISHED)
    case.ask("", 1, kind, target)
    case.attach(ep, 12)
    case.detach(ep, first)
    for where, to, port in ((client, target, PORT), ("", target, PORT), (outside, "192.0.2.1", PUBLISHED)):
        assert set(names(case.ask(where, 5, kind, to, port))) == {"b12"}
    assert case.host.reaches(target, namespace=client, seconds=1)


def test_takeover_announces_the_new_mac_to_neighbours(case: BalancedHost) -> None:
    ep = case.service()
    first = case.attach(ep, 11)
    client = case.client()
    case.ask(client, 1)
    case.ask(client, 1, TCP, SERVICE6)
    second = case.attach(ep, 12)
    case.detach(ep, first)
    eventually(lambda: second.mac in case.host.sh("ip", "neigh", "show", SERVICE, namespace=client))
    eventually(lambda: second.mac in case.host.sh("ip", "neigh", "show", SERVICE6, namespace=client))


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_fragmented_datagram_reaches_a_single_backend(case: BalancedHost, target: str) -> None:
    ep = case.service()
    for number in (11, 12, 13):
        case.attach(ep, number)
    for client in (case.client(number) for number in range(200, 206)):
        (flow,) = case.sockets(client, 1, UDP, target)
        assert len({asked(flow, 20000) for _ in range(5)}) == 1


def test_holder_as_udp_client_gets_the_answers(case: BalancedHost) -> None:
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    case.client(200)
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

    server = case.host.inside(case.key("c200"), case.host.start_here, sys.executable, "-c", program)
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    for name, seen in (("b11", SERVICE), ("b12", "10.9.0.12")):
        assert set(case.ask(case.key(name), 40, UDP, "10.9.0.200")) == {("c200", seen)}


def test_sctp_association_stays_with_one_backend(case: BalancedHost) -> None:
    ep = case.service()
    case.attach(ep, 11)
    second = case.attach(ep, 12)
    client = case.client()
    listening = {name: _raw(case, name) for name in ("b11", "b12")}
    case.keep(*listening.values())
    initial = {port: _sctp(case, client, listening, port, 1) for port in range(5000, 5030)}
    assert set(initial.values()) == {"b11", "b12"}
    case.change(ep, second, drained=True)
    assert {port: _sctp(case, client, listening, port, 0) for port in initial} == initial
    assert {_sctp(case, client, listening, port, 1) for port in initial} == {"b11"}


def _raw(case: BalancedHost, name: str) -> socket.socket:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
        made.setblocking(False)
        return made

    return case.host.inside(case.key(name), listen)


def _sctp(case: BalancedHost, client: str, listening: dict[str, socket.socket], port: int, chunk: int) -> str:
    """Who gets an SCTP packet whose first chunk is of a type."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 132) as raw:
            raw.sendto(struct.pack("!HHIIBBH", port, 9000, 1, 0, chunk, 0, 20) + bytes(16), (SERVICE, 0))

    case.host.inside(client, send)
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


def test_deleted_endpoint_leaves_nothing_in_the_tables(case: BalancedHost) -> None:

    ep = case.service(ports=True)
    attached = [case.attach(ep, number) for number in (11, 12)]
    for _ in range(2):
        asyncio.run(case.driver.delete_endpoint(case.net, ep))
        asyncio.run(case.driver.unpublish(case.net, ep))
        for att in attached:
            asyncio.run(case.driver.leave(case.net, [att], run_step))
    ruleset = COUNTED.sub("", case.host.sh("nft", "list", "ruleset"))
    assert SERVICE not in ruleset
    assert SERVICE6 not in ruleset


FLOODED = ("tcp_flows4", "udp_flows4", "sctp_flows4", "udp_answers4", "udp_peers4")


def _counted(case: BalancedHost, name: str, kind: str = "map") -> int:
    return case.host.sh("nft", "list", kind, "bridge", "sandnet", name).count("expires")


def _flood(case: BalancedHost, where: str, kind: int, count: int, port: int = PORT) -> None:
    """As many openings of flows from a namespace, each from another port of its own choice."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, kind) as raw:
            for number in range(1, 1 + count):
                ports = struct.pack("!HH", number, port)
                raw.sendto(ports + _OPENINGS[kind], (SERVICE, 0))

    case.host.inside(where, send)


_OPENINGS = {
    6: struct.pack("!IIBBHHH", 1, 0, 5 << 4, 2, 1000, 0, 0),
    17: struct.pack("!HH", 9, 0) + b"x",
    132: struct.pack("!IIBBH", 1, 0, 1, 0, 20) + bytes(16),
}


@pytest.mark.parametrize("kind", [6, 17, 132])
def test_learned_flows_of_a_flooding_sandbox_are_limited(
    case: BalancedHost, kind: int, request: pytest.FixtureRequest
) -> None:
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    flooding, began = case.client(201), time.monotonic()
    name = {6: "tcp_flows4", 17: "udp_flows4", 132: "sctp_flows4"}[kind]
    burst, rate = (32_768, 1_000) if kind == 6 else (16_384, 400)

    def flooded() -> int:
        _flood(case, flooding, kind, 50_000)
        return _counted(case, name) + _counted(case, name.replace("4", "_second4"))

    eventually(lambda: flooded() > burst * 0.8)  # a busy machine drops frames that wait for its processors
    learned = _counted(case, name) + _counted(case, name.replace("4", "_second4"))
    assert learned < burst + rate * 1.25 * (time.monotonic() - began) + 100
    client = case.client()
    if kind != 132:
        flows = case.sockets(client, 30, UDP if kind == 17 else TCP)
        assert {asked(flow)[0] for flow in flows} == {"b11", "b12"}
    if not (kind == 17 and request.node.callspec.params["case"] == "1"):  # there its tracked flows are used up, too
        assert set(names(case.ask(case.key("c201"), 60))) == {"b11", "b12"}


@pytest.mark.parametrize("target", [SERVICE, SERVICE6])
def test_full_flow_tables_keep_balancing_and_existing_flows(case: BalancedHost, target: str) -> None:
    """As if others had filled everything that is shared."""
    ep = case.service()
    first = case.attach(ep, 11)
    second = case.attach(ep, 12)
    version = 6 if ":" in target else 4
    _shrink(case, version)
    client = case.client()
    datagrams, streams = case.sockets(client, 40, UDP, target), case.sockets(client, 60, TCP, target)
    assert {asked(flow)[0] for flow in datagrams} == {"b11", "b12"}
    before = [asked(flow)[0] for flow in streams]
    assert set(before) == {"b11", "b12"}
    case.change(ep, first, drained=True)
    assert [asked(flow)[0] for flow in streams] == before
    assert set(names(case.ask(client, 60, UDP, target))) == {"b12"}
    case.change(ep, first, drained=False)
    case.change(ep, second, drained=True)
    assert [asked(flow)[0] for flow in streams] == before
    assert set(names(case.ask(client, 60, TCP, target))) == {"b11"}
    reported = case.host.run(case.kernel.firewall.members, BRIDGE, FULL)
    assert reported == {b"\x06", b"\x11"}


def _shrink(case: BalancedHost, version: int) -> None:
    """Have the shared maps hold nothing more: the rules that write to them are taken away."""
    written = ("tcp_flows", "udp_flows", "udp_answers", "udp_peers")
    for chain in ("tcp_learn", "tcp_learn_second", "udp_learn", "udp_learn_second", "udp_expect"):
        listed = case.host.sh("nft", "-a", "list", "chain", "bridge", "sandnet", f"{chain}{version}")
        for line in listed.splitlines():
            if any(f"update @{name}{version}" in line for name in written):
                handle = line.rpartition("# handle ")[2]
                case.host.sh("nft", "delete", "rule", "bridge", "sandnet", f"{chain}{version}", "handle", handle)


def test_service_address_on_a_foreign_bridge_is_left_alone(
    case: BalancedHost,
) -> None:
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    case.host.sh("ip", "link", "add", "alien0", "type", "bridge")
    case.host.sh("ip", "link", "set", "alien0", "up")
    for name in ("one", "two"):
        case.host.run(case.kernel.namespaces.make, case.key(name))
        waiting = case.host.inside(case.key(name), case.host.start_here, "sleep", "600")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(waiting.pid))
        case.host.sh("ip", "link", "add", f"alien-{name}", *peer)
        case.host.sh("ip", "link", "set", f"alien-{name}", "master", "alien0", "up")
        case.host.sh("ip", "link", "set", "eth0", "up", namespace=case.key(name))
    case.host.sh("ip", "addr", "add", f"{SERVICE}/24", "dev", "eth0", namespace=case.key("two"))
    case.host.sh("ip", "addr", "add", "10.9.0.77/24", "dev", "eth0", namespace=case.key("one"))
    server = case.host.inside(case.key("two"), case.host.start_here, sys.executable, "-c", SERVER, "alien")
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    assert names(case.ask(case.key("one"), 40)) == {"alien": 40}
    assert names(case.ask(case.key("one"), 40, UDP)) == {"alien": 40}
    kinds = ["set" if name in ("udp_answers4", "udp_peers4") else "map" for name in FLOODED]
    assert [_counted(case, *each) for each in zip(FLOODED, kinds, strict=True)] == [0] * len(FLOODED)


def test_packets_from_another_network_learn_no_flow(case: BalancedHost) -> None:
    """A port of another number, on the same bridge even: it is the port that counts."""
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    client = case.client(201)
    case.host.sh("nft", "delete element bridge sandnet ports { snv201 }")
    case.host.sh("nft", "add element bridge sandnet ports { snv201 : 0x7 }")
    for kind in (6, 17, 132):
        _flood(case, client, kind, 100, 9)  # no one answers there: the holder would speak for itself
    assert set(names(case.ask(client, 40))) == {"b11"}
    kinds = ["set" if name in ("udp_answers4", "udp_peers4") else "map" for name in FLOODED]
    assert [_counted(case, *each) for each in zip(FLOODED, kinds, strict=True)] == [0] * len(FLOODED)


@pytest.mark.parametrize("speaker", ["b11", "b12"])
def test_drained_backend_sending_first_gains_no_flow(case: BalancedHost, speaker: str) -> None:
    ep = case.service()
    first, second = case.attach(ep, 11), case.attach(ep, 12)
    case.change(ep, first if speaker == "b11" else second, drained=True)
    client = case.client()
    flows = case.sockets(client, 30, UDP)

    def speak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for flow in flows:
                printed = struct.pack("!HHHH", PORT, flow.getsockname()[1], 9, 0) + b"x"
                ends = socket.inet_aton(SERVICE), socket.inet_aton("10.9.0.200")
                raw.sendto(
                    struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, *ends) + printed, ("10.9.0.200", 0)
                )

    case.host.inside(case.key(speaker), speak)
    for flow in flows:
        assert flow.recv(10) == b"x"
    assert {asked(flow)[0] for flow in flows} == {"b12" if speaker == "b11" else "b11"}


def test_hash_secret_survives_a_restart_and_differs_per_host(
    case: BalancedHost,
) -> None:
    before = case.host.sh("nft", "list", "set", "bridge", "sandnet", "secret")
    case.restart()
    assert case.host.sh("nft", "list", "set", "bridge", "sandnet", "secret") == before
    asyncio.run(case.host_network.stop())
    case.restart()
    assert case.host.sh("nft", "list", "set", "bridge", "sandnet", "secret") != before


def test_single_backend_is_not_balanced(case: BalancedHost) -> None:
    ep = case.service(ports=True)
    case.attach(ep, 11)
    assert SERVICE not in case.host.sh("nft", "list", "set", "bridge", "sandnet", "services4")


def test_stopped_driver_removes_both_tables(case: BalancedHost) -> None:

    asyncio.run(case.host_network.stop())
    asyncio.run(case.host_network.stop())
    assert "sandnet" not in case.host.sh("nft", "list", "ruleset")


def test_table_of_another_version_is_replaced_at_start(host: Host) -> None:
    host.sh("nft", "add table bridge sandnet")
    host.sh("nft", "add map bridge sandnet tcp_flows4 { type mark : ether_addr; }")
    case = BalancedHost(host)
    ep = case.service()
    case.attach(ep, 11)
    case.attach(ep, 12)
    assert set(names(case.ask(case.client(), 30))) == {"b11", "b12"}
    case.close()
