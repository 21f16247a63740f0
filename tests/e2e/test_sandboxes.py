"""Sandboxes: made, joined and given back, with one interface a network and one default route."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import Any

import pytest

from tests.support.daemon import OUTSIDE_ADDRESS, RefusedError, World, mapping, state_of
from tests.support.traffic import Place, until


@pytest.fixture
def theirs(world: World) -> Place:
    """A namespace somebody else made: a link of its own with addresses and routes, and lo down."""
    place = world.place(world.host.container().path)
    for command in (
        "ip link add dummy0 type veth peer name dummy1",
        "ip link set dummy1 up",
        "ip address add 192.0.2.7/24 dev dummy0",
        "ip address add 2001:db8:7::7/64 dev dummy0 nodad",
        "ip link set dummy0 up",
        "ip route add 203.0.113.0/24 via 192.0.2.1",
    ):
        place.sh(*command.split())
    return place


def gateway_of(place: Place) -> list[str]:
    """The default gateways, each with its interface."""
    return [
        f"{route['gateway']} {route['dev']}" for route in json.loads(place.sh("ip", "-j", "route", "show", "default"))
    ]


def test_given_a_container_when_joined_then_the_key_is_12_characters_and_lo_is_up(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    assert box.key == f"{world.netns}/{box.container[:12]}"
    assert "127.0.0.1" in box.sh("ip", "address", "show", "lo", "up")
    assert [link["ifname"] for link in json.loads(box.sh("ip", "-j", "link"))] == ["lo", "eth0"]
    assert world.pinned() == [box.key]
    world.api.leave("foo", "one", box.container)
    assert world.pinned() == []
    assert list(world.netns.iterdir()) == []


def test_given_two_containers_with_the_same_beginning_when_joined_then_each_has_its_sandbox(world: World) -> None:
    world.api.network("foo")
    for name, container in (("one", "a" * 12 + "1"), ("two", "a" * 12 + "2"), ("three", "a" * 12)):
        world.api.endpoint("foo", name)
        world.attach("foo", name, container)
    assert len(world.pinned()) == 3
    one, two = (box["sandbox_key"] for box in world.api.get("/sandboxes")[:2])
    assert world.place(one).reaches(world.api.told("foo", "two")["address"].partition("/")[0])
    assert one != two


@pytest.mark.parametrize("by", ["netns", "pid"])
def test_given_a_namespace_when_joined_and_left_then_it_is_given_back_as_it_was(
    world: World, theirs: Place, by: str
) -> None:
    world.api.network("foo", ipv6=True)
    world.api.network("bar")
    before = state_of(theirs)
    process = world.host.inside(theirs.namespace, subprocess.Popen, ["sleep", "60"])
    try:
        world.api.endpoint("foo", "one")
        world.api.endpoint("bar", "two")
        join = {"netns": theirs.namespace} if by == "netns" else {"pid": process.pid}
        box = world.attach("foo", "one", "c1", **join)
        world.attach("bar", "two", "c1")
        assert theirs.reaches(OUTSIDE_ADDRESS)
        assert os.stat(theirs.namespace).st_ino == world.host.run(os.stat, box.key).st_ino
        assert "UP" in json.loads(theirs.sh("ip", "-j", "link", "show", "lo"))[0]["flags"]
        world.api.leave("foo", "one", "c1")
        world.api.leave("bar", "two", "c1")
        assert state_of(theirs) == before
    finally:
        process.kill()
        process.wait()


def test_given_a_namespace_with_a_default_route_and_eth0_when_joined_and_left_then_both_are_kept(
    world: World, theirs: Place
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    theirs.sh("ip", "link", "set", "dummy0", "name", "eth0")
    theirs.sh("ip", "link", "set", "lo", "up")
    theirs.sh("ip", "link", "set", "eth0", "up")
    theirs.sh("ip", "route", "replace", "default", "via", "192.0.2.1")
    before = state_of(theirs)
    world.attach("foo", "one", "c1", netns=theirs.namespace)
    assert "eth1" in theirs.sh("ip", "link")
    world.api.leave("foo", "one", "c1")
    assert state_of(theirs) == before


def test_given_a_joined_namespace_when_joined_as_another_container_then_400(world: World, theirs: Place) -> None:
    world.api.network("foo")
    for name in ("one", "two"):
        world.api.endpoint("foo", name)
    world.attach("foo", "one", "c1", netns=theirs.namespace)
    with pytest.raises(RefusedError, match="c1") as refused:
        world.api.join("foo", "two", "c2", netns=theirs.namespace)
    assert refused.value.status == 400
    assert world.pinned() == [f"{world.netns}/c1"]


@pytest.mark.parametrize(
    ("join", "status"),
    [
        ({"netns": "/nowhere/at/all"}, 404),
        ({"netns": "/etc/passwd"}, 400),
        ({"netns": "/proc/self/ns/mnt"}, 400),
        ({"netns": "relative"}, 400),
        ({"netns": "/tmp/../etc"}, 400),
        ({"pid": 4194303}, 404),
        ({"pid": -1}, 400),
        ({"netns": "/proc/self/ns/net", "pid": 1}, 400),
    ],
)
def test_given_no_such_namespace_when_joined_then_refused_and_repeatable(
    world: World, join: dict[str, Any], status: int
) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        world.api.join("foo", "one", "c1", **join)
    assert refused.value.status == status, refused.value
    assert world.pinned() == []
    assert world.api.get("/sandboxes") == []
    assert world.attach("foo", "one", "c1").reaches(OUTSIDE_ADDRESS)


def test_given_several_networks_when_joined_and_left_then_the_default_route_follows_the_priority(world: World) -> None:
    gateways = {}
    for name in ("foo", "bar", "baz"):
        world.api.network(name)
        world.api.endpoint(name, "e")
        gateways[name] = world.api.told(name)["gateways"][0]
    box = world.attach("foo", "e", "c1")
    assert gateway_of(box) == [f"{gateways['foo']} eth0"]
    world.attach("bar", "e", "c1")
    assert gateway_of(box) == [f"{gateways['foo']} eth0"]
    world.attach("baz", "e", "c1", gateway_priority=5)
    assert gateway_of(box) == [f"{gateways['baz']} eth2"]
    assert box.reaches(OUTSIDE_ADDRESS)
    world.api.leave("baz", "e", "c1")
    assert gateway_of(box) == [f"{gateways['foo']} eth0"]
    world.api.leave("foo", "e", "c1")
    assert gateway_of(box) == [f"{gateways['bar']} eth1"]
    assert box.reaches(OUTSIDE_ADDRESS)
    world.attach("foo", "e", "c1")
    assert gateway_of(box) == [f"{gateways['bar']} eth1"]
    assert [link["ifname"] for link in json.loads(box.sh("ip", "-j", "link"))] == ["lo", "eth1", "eth0"]


def test_given_networks_with_and_without_ipv6_when_joined_then_each_family_has_its_own_route(world: World) -> None:
    world.api.network("four")
    world.api.network("six", ipv6=True)
    box = world.box("four", "e")
    world.api.endpoint("six", "e")
    world.attach("six", "e", box.container)
    assert gateway_of(box) == [f"{world.api.told('four')['gateways'][0]} eth0"]
    (route,) = json.loads(box.sh("ip", "-6", "-j", "route", "show", "default"))
    assert route["dev"] == "eth1"
    assert box.reaches("2001:db8:1::2")


def test_given_an_internal_network_first_when_another_is_joined_then_that_has_the_default_route(world: World) -> None:
    world.api.network("inner", internal=True)
    world.api.network("foo")
    box = world.box("inner", "e")
    assert gateway_of(box) == []
    world.api.endpoint("foo", "e")
    world.attach("foo", "e", box.container)
    assert box.reaches(OUTSIDE_ADDRESS)


def test_given_an_endpoint_when_left_and_joined_again_then_address_mac_and_ports_are_the_same(world: World) -> None:
    world.api.network("foo", ipv6=True)
    first = world.box("foo", "one", mapping(80))
    world.box("foo", "two")
    world.api.leave("foo", "one", first.container)
    world.api.endpoint("foo", "three")
    again = world.attach("foo", "one", "another")
    for what in ("address", "address6", "mac", "host_ports"):
        assert getattr(again, what) == getattr(first, what)
    again.serve("web", 80)
    assert world.outside.ask("198.51.100.1", first.host_ports[0]).server == "web"
    assert first.mac in again.sh("ip", "link", "show", "eth0")


def test_given_a_joined_endpoint_when_a_second_container_joins_then_400_naming_the_first(world: World) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    for container in (box.container, "another"):
        with pytest.raises(RefusedError, match=box.container) as refused:
            world.api.join("foo", "one", container)
        assert refused.value.status == 400


def test_given_the_null_network_when_joined_then_there_is_lo_and_nothing_else(world: World) -> None:
    box = world.box("none", "alone")
    assert [link["ifname"] for link in json.loads(box.sh("ip", "-j", "link"))] == ["lo"]
    assert box.reaches("127.0.0.1")
    assert world.api.told("none", "alone")["address"] is None


@pytest.mark.parametrize("default", [True, False])
def test_given_the_host_network_when_joined_then_the_sandbox_is_the_host_and_it_stays_untouched(
    world: World, default: bool
) -> None:
    before = world.facts()
    box = world.box("host", "app", join={"use_default_sandbox": default, "host_name": "nobody"})
    assert world.host.run(os.stat, box.key).st_ino == world.host.run(os.stat, "/proc/thread-self/ns/net").st_ino
    now = world.facts()
    assert now._replace(mounts=(), files=()) == before._replace(mounts=(), files=())
    told = world.api.get(f"/sandboxes/{box.container}", verbose="true")
    with open(told["resolv_conf_path"]) as ours, open(world.folder / "host-resolv.conf") as hosts:
        assert ours.read() == hosts.read()
    world.api.leave("host", "app", box.container)
    assert world.facts() == before


def test_given_a_container_on_the_host_network_when_it_joins_another_then_400(world: World) -> None:
    world.api.network("foo")
    on_host = world.box("host", "app")
    world.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        world.api.join("foo", "one", on_host.container)
    assert refused.value.status == 400


@pytest.mark.parametrize("default", [True, False])
def test_given_the_default_sandbox_on_a_bridge_when_joined_then_it_is_the_containers_own(
    world: World, default: bool
) -> None:
    world.api.network("foo")
    container = secrets.token_hex(32)
    world.api.endpoint("foo", "one")
    box = world.attach("foo", "one", container, use_default_sandbox=default)
    assert box.key == f"{world.netns}/{container[:12]}"
    assert box.reaches(OUTSIDE_ADDRESS)


def test_given_a_strangers_file_at_the_key_when_joined_then_409_and_the_file_stays(world: World) -> None:
    world.api.network("foo")
    world.api.endpoint("foo", "one")
    stranger = world.netns / ("b" * 12)
    stranger.write_text("mine")
    try:
        with pytest.raises(RefusedError) as refused:
            world.api.join("foo", "one", "b" * 12)
        assert refused.value.status == 409
        assert stranger.read_text() == "mine"
        assert world.api.get("/sandboxes") == []
    finally:
        stranger.unlink()


def test_given_two_networks_when_one_is_left_then_its_address_is_gone_at_once_and_soon_its_interface(
    world: World,
) -> None:
    world.api.network("foo")
    box = world.box("foo", "one")
    world.api.network("bar", ipv6=True)
    world.api.endpoint("bar", "two")
    second = world.attach("bar", "two", box.container)
    world.api.leave("bar", "two", box.container)
    addresses = box.sh("ip", "-j", "address")
    assert second.address not in addresses
    assert second.address6 not in addresses
    until(lambda: "eth1" not in box.sh("ip", "-j", "link"), 1)
    assert box.reaches(OUTSIDE_ADDRESS)
