"""Sandboxes: made, joined and given back, with one interface a network and one default route."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import Any

import pytest

from tests.support.daemon import OUTSIDE_ADDRESS, RefusedError, RunningDaemon, mapping, state_of
from tests.support.traffic import Place, until


@pytest.fixture
def theirs(daemon: RunningDaemon) -> Place:
    """A namespace another program made: a link of its own with addresses and routes, and lo down."""
    place = daemon.place(daemon.host.container().path)
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


def test_sandbox_key_has_12_characters_and_lo_is_up(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    assert sandbox.key == f"{daemon.netns}/{sandbox.container[:12]}"
    assert "127.0.0.1" in sandbox.sh("ip", "address", "show", "lo", "up")
    assert [link["ifname"] for link in json.loads(sandbox.sh("ip", "-j", "link"))] == ["lo", "eth0"]
    assert daemon.pinned() == [sandbox.key]
    daemon.api.leave("foo", "one", sandbox.container)
    assert daemon.pinned() == []
    assert list(daemon.netns.iterdir()) == []


def test_containers_with_a_common_id_prefix_get_own_sandboxes(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    for name, container in (("one", "a" * 12 + "1"), ("two", "a" * 12 + "2"), ("three", "a" * 12)):
        daemon.api.endpoint("foo", name)
        daemon.attach("foo", name, container)
    assert len(daemon.pinned()) == 3
    one, two = (sandbox["sandbox_key"] for sandbox in daemon.api.get("/sandboxes")[:2])
    assert daemon.place(one).reaches(daemon.api.reported("foo", "two")["address"].partition("/")[0])
    assert one != two


@pytest.mark.parametrize("by", ["netns", "pid"])
def test_leave_restores_a_joined_namespace(daemon: RunningDaemon, theirs: Place, by: str) -> None:
    daemon.api.network("foo", ipv6=True)
    daemon.api.network("bar")
    before = state_of(theirs)
    process = daemon.host.inside(theirs.namespace, subprocess.Popen, ["sleep", "60"])
    try:
        daemon.api.endpoint("foo", "one")
        daemon.api.endpoint("bar", "two")
        join = {"netns": theirs.namespace} if by == "netns" else {"pid": process.pid}
        sandbox = daemon.attach("foo", "one", "c1", **join)
        daemon.attach("bar", "two", "c1")
        assert theirs.reaches(OUTSIDE_ADDRESS)
        assert os.stat(theirs.namespace).st_ino == daemon.host.run(os.stat, sandbox.key).st_ino
        assert "UP" in json.loads(theirs.sh("ip", "-j", "link", "show", "lo"))[0]["flags"]
        daemon.api.leave("foo", "one", "c1")
        daemon.api.leave("bar", "two", "c1")
        assert state_of(theirs) == before
    finally:
        process.kill()
        process.wait()


def test_foreign_default_route_and_eth0_are_kept(daemon: RunningDaemon, theirs: Place) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    theirs.sh("ip", "link", "set", "dummy0", "name", "eth0")
    theirs.sh("ip", "link", "set", "lo", "up")
    theirs.sh("ip", "link", "set", "eth0", "up")
    theirs.sh("ip", "route", "replace", "default", "via", "192.0.2.1")
    before = state_of(theirs)
    daemon.attach("foo", "one", "c1", netns=theirs.namespace)
    assert "eth1" in theirs.sh("ip", "link")
    daemon.api.leave("foo", "one", "c1")
    assert state_of(theirs) == before


def test_joining_a_namespace_as_another_container_returns_400(daemon: RunningDaemon, theirs: Place) -> None:
    daemon.api.network("foo")
    for name in ("one", "two"):
        daemon.api.endpoint("foo", name)
    daemon.attach("foo", "one", "c1", netns=theirs.namespace)
    with pytest.raises(RefusedError, match="c1") as refused:
        daemon.api.join("foo", "two", "c2", netns=theirs.namespace)
    assert refused.value.status == 400
    assert daemon.pinned() == [f"{daemon.netns}/c1"]


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
def test_joining_a_missing_namespace_is_refused_and_repeatable(
    daemon: RunningDaemon, join: dict[str, Any], status: int
) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        daemon.api.join("foo", "one", "c1", **join)
    assert refused.value.status == status, refused.value
    assert daemon.pinned() == []
    assert daemon.api.get("/sandboxes") == []
    assert daemon.attach("foo", "one", "c1").reaches(OUTSIDE_ADDRESS)


def test_default_route_follows_the_network_priority(daemon: RunningDaemon) -> None:
    gateways = {}
    for name in ("foo", "bar", "baz"):
        daemon.api.network(name)
        daemon.api.endpoint(name, "e")
        gateways[name] = daemon.api.reported(name)["gateways"][0]
    sandbox = daemon.attach("foo", "e", "c1")
    assert gateway_of(sandbox) == [f"{gateways['foo']} eth0"]
    daemon.attach("bar", "e", "c1")
    assert gateway_of(sandbox) == [f"{gateways['foo']} eth0"]
    daemon.attach("baz", "e", "c1", gateway_priority=5)
    assert gateway_of(sandbox) == [f"{gateways['baz']} eth2"]
    assert sandbox.reaches(OUTSIDE_ADDRESS)
    daemon.api.leave("baz", "e", "c1")
    assert gateway_of(sandbox) == [f"{gateways['foo']} eth0"]
    daemon.api.leave("foo", "e", "c1")
    assert gateway_of(sandbox) == [f"{gateways['bar']} eth1"]
    assert sandbox.reaches(OUTSIDE_ADDRESS)
    daemon.attach("foo", "e", "c1")
    assert gateway_of(sandbox) == [f"{gateways['bar']} eth1"]
    assert [link["ifname"] for link in json.loads(sandbox.sh("ip", "-j", "link"))] == ["lo", "eth1", "eth0"]


def test_each_address_family_has_its_own_default_route(daemon: RunningDaemon) -> None:
    daemon.api.network("four")
    daemon.api.network("six", ipv6=True)
    sandbox = daemon.sandbox("four", "e")
    daemon.api.endpoint("six", "e")
    daemon.attach("six", "e", sandbox.container)
    assert gateway_of(sandbox) == [f"{daemon.api.reported('four')['gateways'][0]} eth0"]
    (route,) = json.loads(sandbox.sh("ip", "-6", "-j", "route", "show", "default"))
    assert route["dev"] == "eth1"
    assert sandbox.reaches("2001:db8:1::2")


def test_internal_network_does_not_get_the_default_route(daemon: RunningDaemon) -> None:
    daemon.api.network("inner", internal=True)
    daemon.api.network("foo")
    sandbox = daemon.sandbox("inner", "e")
    assert gateway_of(sandbox) == []
    daemon.api.endpoint("foo", "e")
    daemon.attach("foo", "e", sandbox.container)
    assert sandbox.reaches(OUTSIDE_ADDRESS)


def test_rejoined_endpoint_keeps_address_mac_and_ports(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", ipv6=True)
    first = daemon.sandbox("foo", "one", mapping(80))
    daemon.sandbox("foo", "two")
    daemon.api.leave("foo", "one", first.container)
    daemon.api.endpoint("foo", "three")
    again = daemon.attach("foo", "one", "another")
    for what in ("address", "address6", "mac", "host_ports"):
        assert getattr(again, what) == getattr(first, what)
    again.serve("web", 80)
    assert daemon.outside.ask("198.51.100.1", first.host_ports[0]).server == "web"
    assert first.mac in again.sh("ip", "link", "show", "eth0")


def test_second_join_of_an_endpoint_returns_400_naming_the_first(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    for container in (sandbox.container, "another"):
        with pytest.raises(RefusedError, match=sandbox.container) as refused:
            daemon.api.join("foo", "one", container)
        assert refused.value.status == 400


def test_null_network_sandbox_has_only_lo(daemon: RunningDaemon) -> None:
    sandbox = daemon.sandbox("none", "alone")
    assert [link["ifname"] for link in json.loads(sandbox.sh("ip", "-j", "link"))] == ["lo"]
    assert sandbox.reaches("127.0.0.1")
    assert daemon.api.reported("none", "alone")["address"] is None


@pytest.mark.parametrize("default", [True, False])
def test_host_network_sandbox_is_the_untouched_host(daemon: RunningDaemon, default: bool) -> None:
    before = daemon.facts()
    sandbox = daemon.sandbox("host", "app", join={"use_default_sandbox": default, "host_name": "nobody"})
    assert daemon.host.run(os.stat, sandbox.key).st_ino == daemon.host.run(os.stat, "/proc/thread-self/ns/net").st_ino
    now = daemon.facts()
    assert now._replace(mounts=(), files=()) == before._replace(mounts=(), files=())
    reported = daemon.api.get(f"/sandboxes/{sandbox.container}", verbose="true")
    with open(reported["resolv_conf_path"]) as ours, open(daemon.folder / "host-resolv.conf") as hosts:
        assert ours.read() == hosts.read()
    daemon.api.leave("host", "app", sandbox.container)
    assert daemon.facts() == before


def test_joining_another_network_from_the_host_one_returns_400(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    on_host = daemon.sandbox("host", "app")
    daemon.api.endpoint("foo", "one")
    with pytest.raises(RefusedError) as refused:
        daemon.api.join("foo", "one", on_host.container)
    assert refused.value.status == 400


@pytest.mark.parametrize("default", [True, False])
def test_default_sandbox_on_a_bridge_is_the_containers_own(daemon: RunningDaemon, default: bool) -> None:
    daemon.api.network("foo")
    container = secrets.token_hex(32)
    daemon.api.endpoint("foo", "one")
    sandbox = daemon.attach("foo", "one", container, use_default_sandbox=default)
    assert sandbox.key == f"{daemon.netns}/{container[:12]}"
    assert sandbox.reaches(OUTSIDE_ADDRESS)


def test_foreign_file_at_the_sandbox_key_returns_409_and_stays(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    stranger = daemon.netns / ("b" * 12)
    stranger.write_text("mine")
    try:
        with pytest.raises(RefusedError) as refused:
            daemon.api.join("foo", "one", "b" * 12)
        assert refused.value.status == 409
        assert stranger.read_text() == "mine"
        assert daemon.api.get("/sandboxes") == []
    finally:
        stranger.unlink()


def test_leave_removes_address_at_once_and_interface_soon(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    daemon.api.network("bar", ipv6=True)
    daemon.api.endpoint("bar", "two")
    second = daemon.attach("bar", "two", sandbox.container)
    daemon.api.leave("bar", "two", sandbox.container)
    addresses = sandbox.sh("ip", "-j", "address")
    assert second.address not in addresses
    assert second.address6 not in addresses
    until(lambda: "eth1" not in sandbox.sh("ip", "-j", "link"))
    assert sandbox.reaches(OUTSIDE_ADDRESS)
