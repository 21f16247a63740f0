"""Several containers behind one address: each sees the client's own, and a change moves nobody else's flows."""

from __future__ import annotations

import json
import struct
from collections import Counter
from functools import partial
from socket import SO_LINGER, SOL_SOCKET

import pytest

from tests.e2e.services import FLOWS, NAMES, PORT, Service, Talk, published, talks, under_load
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    World,
    mapping,
)
from tests.support.ethernet import BROADCAST, IP, ether, raw, tcp, udp
from tests.support.traffic import TCP, UDP, Place, ask_again, until

pytestmark = pytest.mark.timeout(120)
LEARNED = ("udp_flows4", "tcp_flows4")


@pytest.fixture
def service(world: World) -> Service:
    made = published(world, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    for name in NAMES:
        made.attach(name)
    return made


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("version", [4, 6])
def test_given_three_backends_when_asked_by_a_neighbour_then_each_answers_and_sees_the_clients_address(
    service: Service, proto: int, version: int
) -> None:
    address, client = {4: (service.address, service.client_address), 6: (service.address6, service.client_address6)}[
        version
    ]
    seen = [service.client.ask(address, PORT, proto) for _ in range(FLOWS)]
    assert {each.address for each in seen} == {client}
    shares = Counter(each.server for each in seen)
    assert set(shares) == set(NAMES)
    assert min(shares.values()) > FLOWS / 10, shares


def test_given_three_backends_when_told_then_one_holds_the_address_and_each_has_its_own(service: Service) -> None:
    told = service.told()
    assert list(told) == list(NAMES)
    assert {backend["state"] for backend in told.values()} == {"ready"}
    assert [name for name, backend in told.items() if backend["holder"]] == ["b1"]
    own = {name: backend["address"].partition("/")[0] for name, backend in told.items()}
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
def test_given_a_published_port_when_asked_from_outside_then_all_backends_answer_and_see_the_clients_address(
    service: Service, host: str, outside: str, proto: int
) -> None:
    seen = [service.world.outside.ask(host, 8080, proto) for _ in range(FLOWS)]
    assert {each.address for each in seen} == {outside}
    assert set(Counter(each.server for each in seen)) == set(NAMES)


def test_given_three_backends_when_the_host_or_a_backend_asks_then_it_is_answered(service: Service) -> None:
    for address in (service.address, service.address6):
        assert {service.world.here.ask(address, PORT).server for _ in range(FLOWS)} == set(NAMES)
    assert {service.world.here.ask("127.0.0.1", 8080).server for _ in range(FLOWS)} == set(NAMES)
    for backend in service.told().values():
        place = service.world.place(backend["sandbox_key"])
        assert place.ask(service.address, PORT).server in NAMES
        assert place.ask(HOST_ADDRESS, 8080).server in NAMES


def test_given_the_name_of_a_service_when_asked_for_then_it_is_its_one_address(service: Service) -> None:
    told = service.client.sh("dig", "@127.0.0.11", "+short", "web.foo")
    assert told.split() == [service.address]


@pytest.mark.parametrize("leaving", ["b1", "b2"], ids=["holder", "other"])
def test_given_load_when_a_backend_is_detached_then_the_others_flows_go_on_and_new_ones_go_to_them(
    service: Service, leaving: str
) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.world.outside, HOST_ADDRESS, 8080)
    with under_load([talk for talk in inner + outer if talk.server != leaving]):
        service.detach(leaving)
        assert set(service.spread()) == set(NAMES) - {leaving}
        assert set(service.spread(proto=UDP)) == set(NAMES) - {leaving}
        outside = {service.world.outside.ask(HOST_ADDRESS, 8080).server for _ in range(FLOWS)}
        assert outside == set(NAMES) - {leaving}
        assert service.client.reaches(service.address)
        assert service.client.reaches(service.address6)
    assert service.holder() != leaving


def test_given_load_when_a_backend_is_attached_then_no_flow_moves_and_it_gets_a_share_of_the_new(
    service: Service,
) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.world.outside, HOST_ADDRESS, 8080)
    with under_load(inner + outer):
        service.attach("b4")
        assert set(service.spread()) == {*NAMES, "b4"}


def test_given_one_backend_when_the_second_is_attached_then_its_flows_stay(world: World) -> None:
    """Of a neighbour's UDP flows this is not promised: while nothing was balanced, they were not learned."""
    service = published(world, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    service.attach("b1")
    inner = talks(service, service.client, service.address, PORT, TCP)
    with under_load(inner + talks(service, world.outside, HOST_ADDRESS, 8080)):
        service.attach("b2")
        assert set(service.spread()) == {"b1", "b2"}
    service.detach("b1")
    assert set(service.spread()) == {"b2"}
    assert service.holder() == "b2"


def test_given_flows_learned_of_backends_that_are_gone_when_their_addresses_are_given_again_then_new_flows_stay(
    world: World,
) -> None:
    """The client's ports are used again, and the second backend may get the address of the second one before."""
    service = published(world, mapping(PORT, 8080))
    service.attach("b1")
    service.attach("b2")
    ports = range(20001, 20021)
    before = [service.client.client(service.address, PORT, source_port=port) for port in ports]
    assert {ask_again(client).server for client in before} == {"b1", "b2"}
    for client in before:
        client.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # its port is free at once
    known, address = service.told(), service.address
    world.stack.pop_all().close()
    world.api.clear()
    service = published(world, mapping(PORT, 8080))
    assert service.address == address
    service.attach("b1")
    again = [service.client.client(service.address, PORT, source_port=port) for port in ports]
    with under_load([Talk(client, ask_again(client).server) for client in again]):
        service.attach("b2")
        assert service.told()["b2"]["address"] == known["b2"]["address"]


def test_given_a_drained_backend_when_asked_then_its_flows_go_on_and_it_gets_no_new_ones(service: Service) -> None:
    open_ = talks(service, service.client, service.address, PORT)
    for name in ("b2", "b1"):
        with under_load(open_):
            service.change(name, state="drained")
            assert set(service.spread()) == set(NAMES) - {name}
            assert {service.world.outside.ask(HOST_ADDRESS, 8080).server for _ in range(FLOWS)} == set(NAMES) - {name}
            assert service.told()[name]["state"] == "drained"
            service.change(name, state="active")
            assert set(service.spread()) == set(NAMES)


def test_given_weights_when_asked_then_the_shares_follow_them(service: Service) -> None:
    service.change("b1", weight=20)
    shares = service.spread()
    assert shares["b1"] > FLOWS / 2, shares
    assert service.told()["b1"]["weight"] == 20


def test_given_affinity_of_clients_when_asked_then_each_client_stays_with_one_backend(world: World) -> None:
    service = published(world, affinity="client")
    for name in NAMES:
        service.attach(name)
    for client in (service.client, *(world.box("foo", f"client{i}") for i in range(3))):
        assert len({client.ask(service.address, PORT).server for _ in range(12)}) == 1


def test_given_backends_when_all_are_detached_then_nobody_answers_until_one_is_attached(service: Service) -> None:
    for name in NAMES:
        service.detach(name)
    assert service.client.is_refused(service.address, PORT)
    assert service.world.outside.is_refused(HOST_ADDRESS, 8080)
    assert service.told() == {}
    service.attach("b9")
    assert set(service.spread(10)) == {"b9"}
    assert service.world.outside.ask(HOST_ADDRESS, 8080).server == "b9"


def test_given_a_backend_when_attached_again_or_detached_twice_then_refused_and_the_rest_serves(
    service: Service,
) -> None:
    with pytest.raises(RefusedError, match="b2"):
        service.world.api.post("/services/web/backend", container_id="b2")
    service.detach("b2")
    for call in (partial(service.detach, "b2"), partial(service.change, "b2", state="drained")):
        with pytest.raises(RefusedError) as refused:
            call()
        assert refused.value.status == 404
    assert set(service.spread()) == {"b1", "b3"}


def test_given_two_backends_when_one_container_is_joined_by_the_endpoints_path_then_400(service: Service) -> None:
    with pytest.raises(RefusedError) as refused:
        service.world.api.join("foo", "web", "c1")
    assert refused.value.status == 400


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_given_load_when_the_daemon_ends_and_starts_then_no_flow_moves_or_pauses(service: Service, ending: str) -> None:
    inner = talks(service, service.client, service.address, PORT)
    outer = talks(service, service.world.outside, HOST_ADDRESS, 8080)
    before = service.told()
    with under_load(inner + outer):
        getattr(service.world, ending)()
        assert set(service.spread()) == set(NAMES)
        service.world.start()
        assert set(service.spread()) == set(NAMES)
    assert service.told() == before
    service.detach("b1")
    assert set(service.spread()) == {"b2", "b3"}


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_given_a_probe_when_a_backend_does_not_serve_then_it_gets_no_new_flows_until_it_does(
    world: World, kind: str
) -> None:
    probe = {"kind": kind, "port": 8000, "interval": 0.1, "timeout": 0.05}
    service = published(world, mapping(PORT, 8080), probe=probe)
    places = {name: service.attach(name) for name in ("b1", "b2")}
    until(lambda: states(service) == {"b1": "failing", "b2": "failing"})
    greet(places["b1"], kind)
    until(lambda: states(service) == {"b1": "ready", "b2": "failing"})
    until(lambda: set(service.spread(10)) == {"b1"}, 1)
    assert set(service.spread()) == {"b1"}
    assert world.outside.ask(HOST_ADDRESS, 8080).server == "b1"
    greet(places["b2"], kind)
    until(lambda: states(service) == {"b1": "ready", "b2": "ready"})
    assert set(service.spread()) == {"b1", "b2"}


def states(service: Service) -> dict[str, str]:
    return {name: backend["state"] for name, backend in service.told().items()}


def greet(place: Place, kind: str) -> None:
    """A server that a probe is content with: its answer begins as a status line does where ``kind`` is HTTP."""
    place.serve("HTTP/1.1 200 OK\r\n" if kind == "http" else "well", 8000)


def test_given_several_backends_when_down_then_it_succeeds_and_the_host_is_as_it_was(fresh_world: World) -> None:
    fresh_world.start()
    service = published(fresh_world, mapping(PORT, 8080), mapping(PORT, 8080, UDP))
    for name in NAMES:
        service.attach(name)
    assert set(service.spread()) == set(NAMES)
    fresh_world.stack.close()
    fresh_world.down()
    assert fresh_world.facts() == fresh_world.before
    assert not fresh_world.state.exists()
    assert fresh_world.resolvers() == []


def test_given_backends_when_the_last_is_gone_and_the_service_deleted_then_no_element_of_it_is_left(
    world: World,
) -> None:
    empty = world.facts().rules
    service = published(world, mapping(PORT, 8080))
    for name in NAMES:
        service.attach(name)
    service.spread(10)
    for name in NAMES:
        service.detach(name)
    world.stack.pop_all().close()
    world.api.clear()
    until(lambda: world.facts().rules == empty)


def test_given_twelve_characters_of_an_id_when_used_at_the_command_line_then_they_do(world: World) -> None:
    network = world.api.network("foo")
    service = world.api.post("/services", name="web", network_name="foo")
    first, second = "a1b2c3d4e5f6" + "0" * 52, "f6e5d4c3b2a1" + "0" * 52
    for container in (first, second):
        world.api.post("/services/web/backend", container_id=container)
    assert world.cli("network", "ls", "--json")
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
        world.cli(*words)


@pytest.mark.parametrize("internal", [False, True], ids=["external", "internal"])
def test_given_an_unguarded_network_when_it_forges_frames_for_anothers_service_then_no_flow_is_touched(
    service: Service, *, internal: bool
) -> None:
    """Frames with the very flows of the client, to any MAC: they may be learned for no network but their own."""
    world = service.world
    world.api.network("loose", anti_spoofing=False, internal=internal)
    forger = world.box("loose", "forger")
    macs = json.loads(world.host.sh("ip", "-j", "link", "show", "type", "bridge"))
    targets = [BROADCAST, "02:42:aa:bb:cc:dd", *(each["address"] for each in macs)]
    ports = range(40_000, 40_060)
    for each in LEARNED:  # what an earlier test has left
        world.host.sh("nft", "flush", "map", "bridge", "sandnet", each)
    with raw(world.host, forger) as wire:
        for target in targets:
            for port in ports:
                datagram = udp(service.client_address, service.address, PORT, port)
                segment = tcp(service.client_address, service.address, (port, PORT), 1, 0)
                wire.send(ether(target, service_client_mac(service), IP, datagram))
                wire.send(ether(target, forger.mac, IP, segment))
    assert learned(world) == 0
    for proto in (UDP, TCP):
        asked = [service.client.ask(service.address, PORT, proto, source_port=port) for port in ports]
        assert {seen.server for seen in asked} == set(NAMES)
    assert learned(world) >= len(ports)


def service_client_mac(service: Service) -> str:
    told = service.world.api.told("foo", "client")
    return str(told["mac"])


def learned(world: World) -> int:
    """Flows in the maps of the packet filter."""
    return sum(world.host.sh("nft", "list", "map", "bridge", "sandnet", each).count("expires") for each in LEARNED)
