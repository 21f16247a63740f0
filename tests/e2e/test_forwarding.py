"""A host that forwards because of us is no router between its other networks; one that forwarded before stays one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    World,
    mapping,
)
from tests.support.network_host import eventually
from tests.support.traffic import Place

THIRD, THIRD6 = "203.0.113.2", "2001:db8:3::2"
FAR = {4: OUTSIDE_ADDRESS, 6: OUTSIDE_ADDRESS6}
SWITCHES = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


@pytest.fixture
def third(fresh_world: World) -> Place:
    """A machine on another network of the host, which is its router. The daemon does not run yet."""
    world = fresh_world
    machine = world.host.container()
    sh = world.host.sh
    sh("ip", "link", "add", "third", "type", "veth", "peer", "name", "eth0", "netns", machine.path)
    for link, namespace, number in ("third", "", 1), ("eth0", machine.path, 2):
        sh("ip", "address", "add", f"203.0.113.{number}/24", "dev", link, namespace=namespace)
        sh("ip", "address", "add", f"2001:db8:3::{number}/64", "dev", link, "nodad", namespace=namespace)
        sh("ip", "link", "set", link, "up", namespace=namespace)
    sh("ip", "route", "add", "default", "via", "203.0.113.1", namespace=machine.path)
    sh("ip", "-6", "route", "add", "default", "via", "2001:db8:3::1", namespace=machine.path)
    for address in ("0.0.0.0", "::"):
        world.outside.serve("far", 7000, address=address)
    return world.place(machine.path)


def forward(world: World, switch: str, value: int) -> None:
    world.host.sh("sysctl", "-qw", f"{switch}={value}")


def passes(place: Place, version: int) -> bool:
    return not place.is_refused(FAR[version], 7000)


def switched(world: World) -> dict[int, str]:
    return {version: world.host.sh("sysctl", "-n", switch).strip() for version, switch in SWITCHES.items()}


def test_given_no_forwarding_before_when_networks_come_then_nothing_passes_between_the_hosts_other_networks(
    fresh_world: World, third: Place
) -> None:
    """Nor after a restart, nor after a repair, and ``down`` gives the switches back."""
    world = fresh_world
    world.start()
    world.api.network("blue", ipv6=True)
    box = world.box("blue", "web", mapping(80, 8080))
    box.serve("web", 80)
    for _ in range(2):
        assert switched(world) == {4: "1", 6: "1"}
        assert [passes(third, version) for version in (4, 6)] == [False, False]
        assert third.ask("203.0.113.1", 8080).address == THIRD
        assert box.ask(OUTSIDE_ADDRESS, 7000).address == HOST_ADDRESS
        assert box.ask(OUTSIDE_ADDRESS6, 7000)
        world.kill()
        world.start()
    world.host.sh("nft", "delete", "table", "inet", "sandnet")
    eventually(lambda: "table inet sandnet" in world.host.sh("nft", "list", "tables"))
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    world.api.clear()
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    world.kill()
    world.start()
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    world.stop()
    world.down()
    assert switched(world) == {4: "0", 6: "0"}


@pytest.mark.parametrize("before", [4, 6])
def test_given_forwarding_of_one_family_before_when_networks_come_then_that_one_is_not_filtered(
    fresh_world: World, third: Place, before: int
) -> None:
    """Somebody else's traffic through the host is none of ours."""
    world = fresh_world
    forward(world, SWITCHES[before], 1)
    world.start()
    world.api.network("blue", ipv6=True)
    world.kill()
    world.start()
    assert {version: passes(third, version) for version in (4, 6)} == {before: True, 10 - before: False}


def test_given_forwarding_of_one_link_before_when_networks_come_then_that_link_is_not_filtered(
    fresh_world: World, third: Place
) -> None:
    world = fresh_world
    for link in ("third", "uplink"):
        forward(world, f"net.ipv4.conf.{link}.forwarding", 1)
    assert passes(third, 4)
    world.start()
    world.api.network("blue")
    for _ in range(2):
        assert passes(third, 4)
        world.kill()
        world.start()
    world.api.clear()
    world.stop()
    world.down()
    assert switched(world)[4] == "0"
    assert passes(third, 4)


def test_given_forward_others_when_networks_come_then_everything_is_forwarded(fresh_world: World, third: Place) -> None:
    world = fresh_world
    with (world.folder / "config.toml").open("a") as config:
        config.write("forward_others = true\n")
    world.start()
    world.api.network("blue", ipv6=True)
    assert [passes(third, version) for version in (4, 6)] == [True, True]


def test_given_a_lost_state_when_the_daemon_starts_then_the_host_stays_closed_and_down_gives_it_back(
    fresh_world: World, third: Place
) -> None:
    world = fresh_world
    world.start()
    world.api.network("blue", ipv6=True)
    world.kill()
    shutil.rmtree(world.state)
    world.start()
    assert [network["name"] for network in world.api.get("/networks")].count("blue") == 1
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    world.api.clear()
    world.stop()
    world.down()
    assert switched(world) == {4: "0", 6: "0"}


def test_given_no_forwarding_before_when_a_network_is_on_somebodys_bridge_or_without_rules_then_it_is_forwarded(
    fresh_world: World, third: Place
) -> None:
    world = fresh_world
    world.host.sh("ip", "link", "add", "br0", "type", "bridge")
    world.start()
    world.api.network("blue", bridge_name="br0", ipv6=True)
    world.api.network("red", firewall=False)
    world.outside.sh("ip", "route", "add", "172.16.0.0/12", "via", HOST_ADDRESS)
    for network in ("blue", "red"):
        box = world.box(network, "one")
        assert box.ask(OUTSIDE_ADDRESS, 7000)
    assert not passes(third, 4)


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(), reason="br_netfilter is not loaded"
)
def test_given_no_forwarding_before_when_br_netfilter_shows_somebodys_bridge_then_its_frames_pass(
    fresh_world: World,
) -> None:
    world = fresh_world
    sh = world.host.sh
    sh("ip", "link", "add", "br9", "type", "bridge")
    sh("ip", "link", "set", "br9", "up")
    places = []
    for number in (1, 2):
        machine = world.host.container()
        link = f"own{number}"
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", machine.path)
        sh("ip", "link", "set", link, "master", "br9", "up")
        sh("ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0", namespace=machine.path)
        sh("ip", "link", "set", "eth0", "up", namespace=machine.path)
        places.append(world.place(machine.path))
    world.host.sh("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    world.start()
    world.api.network("blue")
    places[1].serve("other", 80)
    assert places[0].ask("10.99.0.2", 80).server == "other"
