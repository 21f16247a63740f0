"""The CNI plugin by direct calls: every command and version, as the specification has them."""

from __future__ import annotations

import json

import pytest

from tests.support.cni import VERSIONS, Runtime, address_of
from tests.support.daemon import OUTSIDE_ADDRESS, RunningDaemon, state_of
from tests.support.network_host import eventually


@pytest.mark.parametrize("version", VERSIONS)
def test_add_returns_interfaces_addresses_routes_and_dns(daemon: RunningDaemon, version: str) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon, version=version, ipam={"subnet": "10.88.1.0/24"})
    result = runtime.add("c1", theirs.path)
    place = daemon.place(theirs.path)
    (link,) = json.loads(place.sh("ip", "-j", "address", "show", "eth0"))
    assert result["cniVersion"] == version
    assert result["interfaces"][2] == {"name": "eth0", "mac": link["address"], "sandbox": theirs.path}
    assert {each["name"] for each in result["interfaces"][:2]} < {*daemon.our_links()}
    family = {"version": "4"} if version == "0.4.0" else {}
    assert result["ips"] == [{**family, "address": "10.88.1.2/24", "gateway": "10.88.1.1", "interface": 2}]
    assert [each["local"] for each in link["addr_info"] if each["family"] == "inet"] == ["10.88.1.2"]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.88.1.1"}]
    assert result["dns"] == {"nameservers": ["127.0.0.11"]}
    assert place.reaches(OUTSIDE_ADDRESS)
    runtime.delete("c1", theirs.path, prevResult=result)


def test_delete_leaves_the_namespace_as_it_was(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    place = daemon.place(theirs.path)
    before = state_of(place)
    runtime = Runtime(daemon)
    runtime.add("c1", theirs.path)
    assert state_of(place) != before
    runtime.delete("c1", theirs.path)
    assert state_of(place) == before
    assert daemon.api.get("/sandboxes") == []
    assert daemon.api.get("/services") == []


def test_delete_succeeds_again_and_without_a_namespace(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    runtime.delete("c1")
    runtime.add("c1", theirs.path)
    for _ in range(2):
        runtime.delete("c1")
        runtime.delete("c1", "/proc/1/nowhere")
    assert daemon.api.get("/services") == []


def test_containers_reach_each_other_by_address(daemon: RunningDaemon) -> None:
    one, two = daemon.host.container(), daemon.host.container()
    runtime = Runtime(daemon)
    runtime.add("c1", one.path)
    address = address_of(runtime.add("c2", two.path))
    assert daemon.place(one.path).reaches(address)
    assert daemon.place(two.path).sh("ip", "-j", "link")
    for each in ("c1", "c2"):
        runtime.delete(each)


def test_second_network_is_a_second_interface(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    web, back = Runtime(daemon, "web"), Runtime(daemon, "back", "0.4.0")
    web.add("c1", theirs.path)
    result = back.add("c1", theirs.path, "net1")
    assert result["interfaces"][2]["name"] == "net1"
    assert "routes" not in result  # the first network has the default route
    names = [link["ifname"] for link in json.loads(daemon.place(theirs.path).sh("ip", "-j", "link"))]
    assert names == ["lo", "eth0", "net1"]
    web.delete("c1", theirs.path)
    assert daemon.place(theirs.path).sh("ip", "route", "show", "default").split()[4] == "net1"
    back.delete("c1", theirs.path, "net1")
    assert daemon.api.get("/sandboxes") == []


def test_version_needs_no_daemon(daemon: RunningDaemon) -> None:
    nowhere = {"SANDNET_HOST": "unix:///nowhere.sock"}
    for version in VERSIONS:
        answer = Runtime(daemon, version=version).call("VERSION", environment=nowhere).answer
        assert answer == {"cniVersion": version, "supportedVersions": VERSIONS}


def test_attachment_is_reclaimed_when_its_namespace_has_ended(daemon: RunningDaemon) -> None:
    host = daemon.host
    host.sh("mkdir", "-p", "/run/netns")
    host.sh("ip", "netns", "add", "blue")
    runtime = Runtime(daemon)
    runtime.add("c1", "/run/netns/blue")
    host.sh("ip", "netns", "exec", "blue", "true")
    host.sh("ip", "netns", "delete", "blue")
    eventually(lambda: not (daemon.pinned() or daemon.api.get("/sandboxes") or daemon.api.get("/services")))
