"""A sandbox on several networks answers by the one that it was asked by."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, RunningDaemon, mapping
from tests.support.traffic import TCP, UDP, Place, until

pytestmark = pytest.mark.timeout(120)

FRONT, BACK = 8081, 8082
"""Host ports, each published on the network of that name; inside, programs listen on 80 and 90."""
INNER = {FRONT: 80, BACK: 90}
OURS = "proto 115"


class Multihomed(NamedTuple):
    """A container on the networks ``back``, which has the default route, and ``front``."""

    daemon: RunningDaemon
    place: Place
    container: str
    addresses: dict[str, tuple[str, str]]
    """By network: its address of each family."""

    def rules(self) -> list[str]:
        return rules_of(self.place)

    def answers(self, *ports: int, proto: int = TCP, version: int = 0) -> bool:
        """Whether a machine outside is answered through the ports, and seen with its own address."""
        for host, outside in ((HOST_ADDRESS, OUTSIDE_ADDRESS), (HOST_ADDRESS6, OUTSIDE_ADDRESS6)):
            if version in (0, 6 if ":" in host else 4):
                for port in ports:
                    assert self.daemon.outside.ask(host, port, proto).address == outside
        return True


def rules_of(place: Place) -> list[str]:
    """What bears our mark in a namespace: rules, and routes of tables other than main."""
    lines = [line for family in ("-4", "-6") for line in place.sh("ip", "-d", family, "rule").splitlines()]
    routes = [
        line for family in ("-4", "-6") for line in place.sh("ip", family, "route", "show", "table", "all").splitlines()
    ]
    return sorted([line for line in lines if OURS in line] + [r for r in routes if OURS in r and " table " in r])


def networks(daemon: RunningDaemon, *names: str) -> None:
    for number, name in enumerate(names):
        daemon.api.network(name, subnet=f"10.9.{number}.0/24", ipv6=True, subnet_ipv6=f"fd00:9:{number}::/64")


@pytest.fixture
def multihomed(daemon: RunningDaemon) -> Multihomed:
    networks(daemon, "back", "front")
    return attached(daemon)


def attached(daemon: RunningDaemon, **join: object) -> Multihomed:
    published = {"back": BACK, "front": FRONT}
    for network, port in published.items():
        daemon.api.endpoint(network, network, mapping(INNER[port], port), mapping(INNER[port], port, UDP))
    sandboxes = {network: daemon.attach(network, network, "c1", **join) for network in published}
    addresses = {network: (sandbox.address, sandbox.address6) for network, sandbox in sandboxes.items()}
    return Multihomed(daemon, sandboxes["front"], "c1", addresses)


@pytest.mark.parametrize("bound", ["any", "own"])
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_ports_of_both_networks_answer_for_any_bind_address(multihomed: Multihomed, proto: int, bound: str) -> None:
    for network, port in (("back", BACK), ("front", FRONT)):
        for own, unspecified in zip(multihomed.addresses[network], ("0.0.0.0", "::"), strict=True):
            multihomed.place.serve(network, INNER[port], proto, unspecified if bound == "any" else own)
    assert multihomed.answers(FRONT, BACK, proto=proto)
    for host in (HOST_ADDRESS, HOST_ADDRESS6, "127.0.0.1"):
        for port in (FRONT, BACK):
            assert multihomed.daemon.here.ask(host, port, proto).server


def test_neighbours_are_answered_over_the_shared_network(
    multihomed: Multihomed,
) -> None:
    for proto in (TCP, UDP):
        multihomed.place.serve("c1", 80, proto)
    for network in ("back", "front"):
        neighbour = multihomed.daemon.sandbox(network, f"neighbour-{network}")
        for proto in (TCP, UDP):
            assert neighbour.ask(multihomed.addresses[network][0], 80, proto).address == neighbour.address


def test_neighbour_reaches_a_port_published_on_the_other_network(
    multihomed: Multihomed,
) -> None:
    multihomed.place.serve("c1", 80)
    neighbour = multihomed.daemon.sandbox("back", "neighbour")
    assert neighbour.ask(HOST_ADDRESS, FRONT).server == "c1"


def test_two_endpoints_of_one_network_both_answer(daemon: RunningDaemon) -> None:
    networks(daemon, "foo")
    caller = daemon.sandbox("foo", "caller")
    for name, port in (("one", 8081), ("two", 8082)):
        daemon.api.endpoint("foo", name, mapping(80, port))
    sandboxes = [daemon.attach("foo", name, "c1") for name in ("one", "two")]
    sandboxes[0].serve("c1", 80)
    sandboxes[0].serve("c1", 80, address="::")
    for sandbox, port in zip(sandboxes, (8081, 8082), strict=True):
        assert caller.ask(sandbox.address, 80).address == caller.address
        assert caller.ask(sandbox.address6, 80).address == caller.address6
        assert daemon.outside.ask(HOST_ADDRESS, port).address == OUTSIDE_ADDRESS


def test_backends_on_two_networks_all_serve_the_service(daemon: RunningDaemon) -> None:
    networks(daemon, "back", "front")
    daemon.api.endpoint("front", "web", mapping(80, FRONT), mapping(80, FRONT, UDP))
    for number in range(3):
        daemon.api.endpoint("back", f"db{number}")
        daemon.attach("back", f"db{number}", f"c{number}")
    for number in range(3):
        place = daemon.place(daemon.api.post("/services/web/backend", container_id=f"c{number}"))
        for proto in (TCP, UDP):
            place.serve(f"c{number}", 80, proto)
            place.serve(f"c{number}", 80, proto, "::")
    for proto in (TCP, UDP):
        for host in (HOST_ADDRESS, HOST_ADDRESS6):
            seen = {daemon.outside.ask(host, FRONT, proto).server for _ in range(40)}
            assert seen == {"c0", "c1", "c2"}


def test_ports_answer_after_the_default_route_moves(daemon: RunningDaemon) -> None:
    networks(daemon, "back", "front", "third")
    boxed = attached(daemon)
    for proto in (TCP, UDP):
        boxed.place.serve("c1", 80, proto)
        boxed.place.serve("c1", 80, proto, "::")
        boxed.place.serve("c1", 90, proto)
        boxed.place.serve("c1", 90, proto, "::")
    for priority, network in ((5, "third"), (0, "")):
        if network:
            daemon.api.endpoint(network, network)
            daemon.attach(network, network, "c1", gateway_priority=priority)
        else:
            daemon.api.leave("third", "third", "c1")
        for proto in (TCP, UDP):
            assert boxed.answers(FRONT, BACK, proto=proto)
    daemon.api.leave("back", "back", "c1")
    assert boxed.rules() == []
    for proto in (TCP, UDP):
        assert boxed.answers(FRONT, proto=proto)


def test_ports_answer_with_a_strict_reverse_path_filter(
    multihomed: Multihomed,
) -> None:
    for link in ("all", "eth0", "eth1"):
        multihomed.place.sh("sysctl", "-qw", f"net.ipv4.conf.{link}.rp_filter=1")
    multihomed.place.serve("c1", 80)
    multihomed.place.serve("c1", 90)
    assert multihomed.answers(FRONT, BACK, version=4)


def test_own_route_of_the_sandbox_applies_to_a_bound_address(
    multihomed: Multihomed,
) -> None:
    place, (address, _) = multihomed.place, multihomed.addresses["front"]
    place.sh("ip", "route", "add", "198.51.100.0/24", "via", "10.9.1.77", "dev", "eth1")
    found = json.loads(place.sh("ip", "-j", "route", "get", "198.51.100.7", "from", address))
    assert found[0]["gateway"] == "10.9.1.77"


def test_single_network_has_no_source_routing(daemon: RunningDaemon) -> None:
    networks(daemon, "back")
    assert rules_of(daemon.sandbox("back", "one")) == []


def _one_rule(place: Place) -> None:
    line = next(line for line in place.sh("ip", "rule").splitlines() if line.startswith("702:"))
    place.sh("ip", "rule", "del", "priority", "702", *line.partition(":")[2].split())


def _all_rules(place: Place) -> None:
    for family in ("-4", "-6"):
        place.sh("ip", family, "rule", "flush")
        place.sh("ip", family, "rule", "add", "priority", "32766", "lookup", "main")


def _a_table(place: Place) -> None:
    table = place.sh("ip", "rule").split("lookup ")[2].split()[0]
    place.sh("ip", "route", "flush", "table", table)


@pytest.mark.parametrize("remove", [_one_rule, _all_rules, _a_table])
def test_removed_rules_and_routes_inside_are_restored(multihomed: Multihomed, remove: Callable[[Place], None]) -> None:
    before = multihomed.rules()
    assert before
    assert multihomed.daemon.process
    multihomed.daemon.process.send_signal(signal.SIGSTOP)  # else it may be repaired before it is seen
    try:
        remove(multihomed.place)
        assert multihomed.rules() != before
    finally:
        multihomed.daemon.process.send_signal(signal.SIGCONT)
    until(lambda: multihomed.rules() == before)


@pytest.mark.parametrize("away", [False, True], ids=["whole", "broken meanwhile"])
def test_ports_of_both_networks_answer_after_a_daemon_kill(multihomed: Multihomed, away: bool) -> None:
    before = multihomed.rules()
    multihomed.daemon.kill()
    if away:
        _all_rules(multihomed.place)
    multihomed.daemon.start()
    assert multihomed.rules() == before
    multihomed.place.serve("c1", 80)
    assert multihomed.answers(FRONT, version=4)


def test_own_rules_of_a_joined_namespace_are_restored(daemon: RunningDaemon) -> None:
    networks(daemon, "back", "front")
    theirs = daemon.place(daemon.host.container().path)
    theirs.sh("ip", "rule", "add", "priority", "500", "from", "192.0.2.7", "lookup", "77")

    def state() -> list[str]:
        return [theirs.sh("ip", family, "rule") for family in ("-4", "-6")] + [theirs.sh("ip", "-j", "address")]

    theirs.sh("ip", "link", "set", "lo", "up")
    before = state()
    boxed = attached(daemon, netns=theirs.namespace)
    boxed.place.serve("c1", 80)
    assert boxed.answers(FRONT, version=4)
    for network in ("back", "front"):
        daemon.api.leave(network, network, "c1")
    assert state() == before
