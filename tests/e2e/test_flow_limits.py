"""One sandbox does not fill the host's table of tracked connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.test_tricks import bridge_mac
from tests.support import ethernet as f
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    Box,
    RefusedError,
    World,
)
from tests.support.network_host import eventually
from tests.support.traffic import UDP

LIMIT = 64
"""Few enough for a single counter, which does not count the flow that it was made for."""
MANY = 600
"""Flows that a sandbox begins."""


def flows(world: World, source: str) -> int:
    """How many are tracked that a source began."""
    family = "ipv6" if ":" in source else "ipv4"
    return world.host.sh("conntrack", "-L", "-f", family, "--orig-src", source).count("src=" + source)


def begin(box: Box, address: str, count: int = MANY) -> None:
    """That many flows to different ports, from one socket."""
    with box.bound("::" if ":" in address else "0.0.0.0", UDP) as socket:
        for port in range(10_000, 10_000 + count):
            socket.sendto(b"!", (address, port))


@pytest.fixture(autouse=True)
def nothing_tracked(world: World) -> Iterator[None]:
    world.host.sh("conntrack", "-F")
    yield
    world.host.sh("conntrack", "-F")


@pytest.mark.parametrize(
    "target", [OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6], ids=["out4", "out6", "host4", "host6"]
)
def test_given_max_flows_when_a_sandbox_begins_more_then_no_more_are_tracked_and_others_are_served(
    world: World, target: str
) -> None:
    world.api.network("foo", ipv6=True, max_flows=LIMIT, host_access=True)
    box, other = world.box("foo", "one"), world.box("foo", "two")
    world.outside.serve("far", 7000, UDP)
    begin(box, target)
    assert LIMIT // 2 <= flows(world, box.address6 if ":" in target else box.address) <= LIMIT + 1
    assert other.ask(OUTSIDE_ADDRESS, 7000, UDP).server == "far"
    world.host.sh("conntrack", "-F")
    assert box.ask(OUTSIDE_ADDRESS, 7000, UDP).server == "far"
    assert world.api.post("/reconcile", fix=False)["drift"] == []


def test_given_max_flows_when_what_has_no_ports_is_sent_then_it_is_limited_as_well(world: World) -> None:
    world.api.network("foo", max_flows=LIMIT)
    box = world.box("foo", "one")
    target = bridge_mac(world, "foo")
    with f.raw(world.host, box) as wire:
        for number in range(MANY):
            far = f"198.51.{100 + number // 200}.{number % 200 + 3}"
            wire.send(f.ether(target, box.mac, f.IP, f.ipv4(box.address, far, 200, b"")))
    assert flows(world, box.address) <= LIMIT + 1


def test_given_no_anti_spoofing_when_a_sandbox_uses_many_sources_then_the_network_is_limited(world: World) -> None:
    world.api.network("foo", subnet="10.9.0.0/16", max_flows=LIMIT, anti_spoofing=False)
    box = world.box("foo", "one")
    target = bridge_mac(world, "foo")
    with f.raw(world.host, box) as wire:
        for number in range(MANY):
            source = f"10.9.{1 + number // 250}.{number % 250 + 1}"
            wire.send(f.ether(target, box.mac, f.IP, f.udp(source, OUTSIDE_ADDRESS)))
    assert world.host.sh("conntrack", "-L").count(" src=10.9.") <= LIMIT + 1


def test_given_a_restart_when_a_sandbox_begins_flows_then_the_limit_is_as_before(world: World) -> None:
    world.api.network("foo", max_flows=LIMIT)
    box = world.box("foo", "one")
    world.kill()
    world.start()
    begin(box, OUTSIDE_ADDRESS)
    assert LIMIT // 2 <= flows(world, box.address) <= LIMIT + 1
    world.host.sh("nft", "delete", "table", "inet", "sandnet")
    eventually(lambda: "flows_64" in world.host.sh("nft", "list", "ruleset"))
    world.host.sh("conntrack", "-F")
    begin(box, OUTSIDE_ADDRESS)
    assert LIMIT // 2 <= flows(world, box.address) <= LIMIT + 1


def test_given_no_limit_when_a_sandbox_begins_flows_then_all_are_tracked(world: World) -> None:
    world.api.network("foo", max_flows=0)
    world.api.network("bar")
    for network in ("foo", "bar"):
        box = world.box(network, "one")
        begin(box, OUTSIDE_ADDRESS)
        assert flows(world, box.address) == MANY


def test_given_max_flows_of_the_configuration_when_a_network_asks_for_none_then_it_is_in_force(
    fresh_world: World,
) -> None:
    world = fresh_world
    with (world.folder / "config.toml").open("a") as config:
        config.write("max_flows = 128\n")
    world.start()
    world.api.network("foo")
    box = world.box("foo", "one")
    begin(box, OUTSIDE_ADDRESS)
    assert 64 <= flows(world, box.address) <= 128 + 1


@pytest.mark.parametrize("value", [-1, 1 << 25, "64", True, 1.5])
def test_given_max_flows_that_make_no_sense_when_a_network_is_created_then_400(world: World, value: object) -> None:
    with pytest.raises(RefusedError, match="max_flows"):
        world.api.network("foo", max_flows=value)


def test_given_a_report_of_a_full_map_of_learned_flows_when_asked_then_health_and_doctor_give_it(world: World) -> None:
    """The rules make the same entry when a map is really full (tests/kernel/test_flow_room.py)."""
    world.api.network("foo")
    problem = "no room for more flows of tcp services"
    for verb in ("add", "delete"):
        world.host.sh("nft", verb, "element", "bridge", "sandnet", "full", "{ tcp }")
        reported = verb == "add"
        eventually(lambda: (problem in str(world.api.get("/healthz"))) is reported)  # noqa: B023
        assert (problem in str(world.api.post("/reconcile", fix=True)["drift"])) is reported
