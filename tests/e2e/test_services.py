"""Several containers behind one address: each sees the client's own, and a change moves no one else's flows."""

from __future__ import annotations

import json
import struct
from collections import Counter
from functools import partial
from socket import SO_LINGER, SOL_SOCKET

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    mapping,
)
from tests.support.ethernet import BROADCAST, IP, ether, raw, tcp, udp
from tests.support.service_cases import FLOWS, NAMES, PORT, Service, Talk, published, talks, under_load
from tests.support.traffic import TCP, UDP, Place, ask_again, until

pytestmark = pytest.mark.timeout(120)
LEARNED = ("udp_flows4", "tcp_flows4")


@pytest.fixture
def service(daemon: RunningDaemon) -> Service:
    made = published(daemon, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    for name in NAMES:
        made.attach(name)
    return made


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("version", [4, 6])
def test_backends_see_the_address_of_a_neighbour(service: Service, proto: int, version: int) -> None:
    address, client = {4: (service.address, service.client_address), 6: (service.address6, service.client_address6)}[
        version
    ]
    seen = [service.client.ask(address, PORT, proto) for _ in range(FLOWS)]
    assert {each.address for each in seen} == {client}
    shares = Counter(each.server for each in seen)
    assert set(shares) == set(NAMES)
    assert min(shares.values()) > FLOWS / 10, shares


def test_one_backend_holds_the_service_address(service: Service) -> None:
    reported = service.reported()
    assert list(reported) == list(NAMES)
    assert {backend["state"] for backend in reported.values()} == {"ready"}
    assert [name for name, backend in reported.items() if backend["holder"]] == ["b1"]
    own = {name: backend["address"].partition("/")[0] for name, backend in reported.items()}
    assert own["b1"] == service.address
    assert len(set(own.values())) == 3
    for name, address in own.items():
        if name != "b1":
            assert service.client.ask(address, PORT).server == name
    assert service.client.reaches(service.address)
    assert service.client.reaches(service.address6)


@pytest.mark.parametrize(
    ("host", "outside"), [(HOST_ADDRESS, OUTSIDE_ADDRESS), (HOST_ADDRESS6, OUTSIDE_ADDRESS6)], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_published_service_backends_see_the_outside_client(
    service: Service, host: str, outside: str, proto: int
) -> None:
    seen = [service.daemon.outside.ask(host, 8080, proto) for _ in range(FLOWS)]
    assert {each.address for each in seen} == {outside}
    assert set(Counter(each.server for each in seen)) == set(NAMES)


def test_service_answers_the_host_and_its_own_backends(service: Service) -> None:
    for address in (service.address, service.address6):
        assert {service.daemon.here.ask(address, PORT).server for _ in range(FLOWS)} == set(NAMES)
    assert {service.daemon.here.ask("127.0.0.1", 8080).server for _ in range(FLOWS)} == set(NAMES)
    for backend in service.reported().values():
        place = service.daemon.place(backend["sandbox_key"])
        assert place.ask(service.address, PORT).server in NAMES
        assert place.ask(HOST_ADDRESS, 8080).server in NAMES


def test_service_name_resolves_to_its_single_address(service: Service) -> None:
    reported = service.client.sh("dig", "@127.0.0.11", "+short", "web.foo")
    assert reported.split() == [service.address]


@pytest.mark.parametrize("leaving", ["b1", "b2"], ids=["holder", "other"])
def test_detaching_a_backend_under_load_keeps_the_other_flows(service: Service, leaving: str) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.daemon.outside, HOST_ADDRESS, 8080)
    with under_load([talk for talk in inner + outer if talk.server != leaving]):
        service.detach(leaving)
        assert set(service.spread()) == set(NAMES) - {leaving}
        assert set(service.spread(proto=UDP)) == set(NAMES) - {leaving}
        outside = {service.daemon.outside.ask(HOST_ADDRESS, 8080).server for _ in range(FLOWS)}
        assert outside == set(NAMES) - {leaving}
        assert service.client.reaches(service.address)
        assert service.client.reaches(service.address6)
    assert service.holder() != leaving


def test_attaching_a_backend_under_load_moves_no_flow(
    service: Service,
) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.daemon.outside, HOST_ADDRESS, 8080)
    with under_load(inner + outer):
        service.attach("b4")
        assert set(service.spread()) == {*NAMES, "b4"}


def test_attaching_a_second_backend_keeps_flows_of_the_first(daemon: RunningDaemon) -> None:
    """Of a neighbour's UDP flows this is not promised: while nothing was balanced, they were not learned."""
    service = published(daemon, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    service.attach("b1")
    inner = talks(service, service.client, service.address, PORT, TCP)
    with under_load(inner + talks(service, daemon.outside, HOST_ADDRESS, 8080)):
        service.attach("b2")
        assert set(service.spread()) == {"b1", "b2"}
    service.detach("b1")
    assert set(service.spread()) == {"b2"}
    assert service.holder() == "b2"


def test_stale_learned_flows_do_not_move_new_ones(
    daemon: RunningDaemon,
) -> None:
    """The client's ports are used again, and the second backend may get the address of the second one before."""
    service = published(daemon, mapping(PORT, 8080))
    service.attach("b1")
    service.attach("b2")
    ports = range(20001, 20021)
    before = [service.client.client(service.address, PORT, source_port=port) for port in ports]
    assert {ask_again(client).server for client in before} == {"b1", "b2"}
    for client in before:
        client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # its port is free at once
    known, address = service.reported(), service.address
    daemon.stack.pop_all().close()
    daemon.api.clear()
    service = published(daemon, mapping(PORT, 8080))
    assert service.address == address
    service.attach("b1")
    again = [service.client.client(service.address, PORT, source_port=port) for port in ports]
    with under_load([Talk(client, ask_again(client).server) for client in again]):
        service.attach("b2")
        assert service.reported()["b2"]["address"] == known["b2"]["address"]


def test_drained_backend_keeps_its_flows_and_gets_no_new_ones(service: Service) -> None:
    open_ = talks(service, service.client, service.address, PORT)
    for name in ("b2", "b1"):
        with under_load(open_):
            service.change(name, state="drained")
            assert set(service.spread()) == set(NAMES) - {name}
            assert {service.daemon.outside.ask(HOST_ADDRESS, 8080).server for _ in range(FLOWS)} == set(NAMES) - {name}
            assert service.reported()[name]["state"] == "drained"
            service.change(name, state="active")
            assert set(service.spread()) == set(NAMES)


def test_backend_shares_follow_the_weights(service: Service) -> None:
    service.change("b1", weight=20)
    shares = service.spread()
    assert shares["b1"] > FLOWS / 2, shares
    assert service.reported()["b1"]["weight"] == 20


def test_client_affinity_keeps_each_client_on_one_backend(daemon: RunningDaemon) -> None:
    service = published(daemon, affinity="client")
    for name in NAMES:
        service.attach(name)
    for client in (service.client, *(daemon.sandbox("foo", f"client{i}") for i in range(3))):
        assert len({client.ask(service.address, PORT).server for _ in range(12)}) == 1


def test_service_answers_nothing_until_a_backend_is_attached(service: Service) -> None:
    for name in NAMES:
        service.detach(name)
    assert service.client.is_refused(service.address, PORT)
    assert service.daemon.outside.is_refused(HOST_ADDRESS, 8080)
    assert service.reported() == {}
    service.attach("b9")
    assert set(service.spread(10)) == {"b9"}
    assert service.daemon.outside.ask(HOST_ADDRESS, 8080).server == "b9"


def test_repeated_attach_or_detach_of_a_backend_is_refused(
    service: Service,
) -> None:
    with pytest.raises(RefusedError, match="b2"):
        service.daemon.api.post("/services/web/backend", container_id="b2")
    service.detach("b2")
    for call in (partial(service.detach, "b2"), partial(service.change, "b2", state="drained")):
        with pytest.raises(RefusedError) as refused:
            call()
        assert refused.value.status == 404
    assert set(service.spread()) == {"b1", "b3"}


def test_join_by_endpoint_path_with_two_backends_returns_400(service: Service) -> None:
    with pytest.raises(RefusedError) as refused:
        service.daemon.api.join("foo", "web", "c1")
    assert refused.value.status == 400


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_restart_under_load_moves_or_pauses_no_flow(service: Service, ending: str) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.daemon.outside, HOST_ADDRESS, 8080)
    before = service.reported()
    with under_load(inner + outer):
        getattr(service.daemon, ending)()
        assert set(service.spread()) == set(NAMES)
        service.daemon.start()
        assert set(service.spread()) == set(NAMES)
    assert service.reported() == before
    service.detach("b1")
    assert set(service.spread()) == {"b2", "b3"}


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_backend_gets_no_new_flows_while_its_probe_fails(daemon: RunningDaemon, kind: str) -> None:
    probe = {"kind": kind, "port": 8000, "interval": 1.0, "timeout": 0.5}
    service = published(daemon, mapping(PORT, 8080), probe=probe)
    places = {name: service.attach(name) for name in ("b1", "b2")}
    until(lambda: states(service) == {"b1": "failing", "b2": "failing"})
    greet(places["b1"], kind)
    until(lambda: states(service) == {"b1": "ready", "b2": "failing"})
    until(lambda: set(service.spread(10)) == {"b1"})
    assert set(service.spread()) == {"b1"}
    assert daemon.outside.ask(HOST_ADDRESS, 8080).server == "b1"
    greet(places["b2"], kind)
    until(lambda: states(service) == {"b1": "ready", "b2": "ready"})
    assert set(service.spread()) == {"b1", "b2"}


def states(service: Service) -> dict[str, str]:
    return {name: backend["state"] for name, backend in service.reported().items()}


def greet(place: Place, kind: str) -> None:
    """A server that a probe is content with: its answer begins as a status line does where ``kind`` is HTTP."""
    place.serve("HTTP/1.1 200 OK\r\n" if kind == "http" else "well", 8000)


def test_down_with_several_backends_restores_the_host(fresh_daemon: RunningDaemon) -> None:
    fresh_daemon.start()
    service = published(fresh_daemon, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    for name in NAMES:
        service.attach(name)
    assert set(service.spread()) == set(NAMES)
    fresh_daemon.stack.close()
    fresh_daemon.down()
    assert fresh_daemon.facts() == fresh_daemon.before
    assert not fresh_daemon.state.exists()
    assert fresh_daemon.resolvers() == []


def test_deleted_service_leaves_no_ruleset_elements(
    daemon: RunningDaemon,
) -> None:
    empty = daemon.facts().rules
    service = published(daemon, mapping(PORT, 8080))
    for name in NAMES:
        service.attach(name)
    service.spread(10)
    for name in NAMES:
        service.detach(name)
    daemon.stack.pop_all().close()
    daemon.api.clear()
    until(lambda: daemon.facts().rules == empty)


def test_cli_accepts_twelve_characters_of_an_id(daemon: RunningDaemon) -> None:
    network = daemon.api.network("foo")
    service = daemon.api.post("/services", name="web", network_name="foo")
    first, second = "a1b2c3d4e5f6" + "0" * 52, "f6e5d4c3b2a1" + "0" * 52
    for container in (first, second):
        daemon.api.post("/services/web/backend", container_id=container)
    assert daemon.cli("network", "ls", "--json")
    for words in (
        ("network", "info", network[:12]),
        ("service", "info", f"{service[:12]}.foo"),
        ("service", "info", service[:12]),
        ("sandbox", "info", first[:12]),
        ("sandbox", "exec", first[:12], "true"),
        ("service", "drain", first[:12], service[:12]),
        ("service", "detach", first[:12], service[:12]),
        ("endpoint", "leave", second[:12], f"{service[:12]}.{network[:12]}"),
        ("service", "unpublish", service[:12]),
        ("network", "rm", network[:12]),
    ):
        daemon.cli(*words)


@pytest.mark.parametrize("internal", [False, True], ids=["external", "internal"])
def test_forged_frames_for_a_foreign_service_touch_no_flow(service: Service, *, internal: bool) -> None:
    """Frames with the very flows of the client, to any MAC: they may be learned for no network but their own."""
    daemon = service.daemon
    daemon.api.network("loose", anti_spoofing=False, internal=internal)
    forger, beside = daemon.sandbox("loose", "forger"), daemon.sandbox("loose", "beside")
    macs = json.loads(daemon.host.sh("ip", "-j", "link", "show", "type", "bridge"))
    targets = [BROADCAST, "02:42:aa:bb:cc:dd", *(each["address"] for each in macs)]
    ports = range(40_000, 40_060)
    for each in LEARNED:  # what an earlier test has left
        daemon.host.sh("nft", "flush", "map", "bridge", "sandnet", each)
    with raw(daemon.host, forger) as wire:
        for target in targets:
            for port in ports:
                datagram = udp(service.client_address, service.address, PORT, port)
                segment = tcp(service.client_address, service.address, (port, PORT), 1, 0)
                wire.send(ether(target, service_client_mac(service), IP, datagram))
                wire.send(ether(target, forger.mac, IP, segment))
    assert forger.reaches(beside.address), "what was sent before it has arrived, too"
    assert learned(daemon) == 0
    for proto in (UDP, TCP):
        asked = [service.client.ask(service.address, PORT, proto, source_port=port) for port in ports]
        assert {seen.server for seen in asked} == set(NAMES)
    assert learned(daemon) >= len(ports)


def service_client_mac(service: Service) -> str:
    reported = service.daemon.api.reported("foo", "client")
    return str(reported["mac"])


def learned(daemon: RunningDaemon) -> int:
    """Flows in the maps of the packet filter."""
    return sum(daemon.host.sh("nft", "list", "map", "bridge", "sandnet", each).count("expires") for each in LEARNED)
