"""Containers of runtimes on macvlan networks whose addresses come from the segment's DHCP server."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from tests.support.cni import VERSIONS, Runtime
from tests.support.daemon import OUTSIDE_ADDRESS, RunningDaemon, state_of
from tests.support.dhcp_server import FIRST, LAST, DhcpServer
from tests.support.name_cases import lookup
from tests.support.netavark import Podman
from tests.support.network_host import eventually
from tests.support.traffic import until

LAN: dict[str, Any] = {"driver": "macvlan", "master": "uplink", "ipam": {"type": "dhcp"}}


@pytest.fixture(autouse=True)
def server(daemon: RunningDaemon, tmp_path: Path) -> Iterator[DhcpServer]:
    made = DhcpServer(daemon, tmp_path)
    made.start()
    yield made
    made.stop()


def is_leased(address: str) -> bool:
    return IPv4Address(FIRST) <= IPv4Interface(address).ip <= IPv4Address(LAST)


@pytest.mark.parametrize("version", VERSIONS)
def test_cni_container_has_an_address_of_the_server(daemon: RunningDaemon, server: DhcpServer, version: str) -> None:
    theirs = daemon.host.container()
    place = daemon.place(theirs.path)
    before = state_of(place)
    runtime = Runtime(daemon, "lan", version, **LAN)
    result = runtime.add("c1", theirs.path)
    (interface,) = result["interfaces"]
    assert (interface["name"], interface["sandbox"]) == ("eth0", theirs.path)
    (own,) = result["ips"]
    assert is_leased(own["address"])
    assert (own["gateway"], own["interface"]) == (OUTSIDE_ADDRESS, 0)
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": OUTSIDE_ADDRESS}]
    place.serve("web", 80)
    assert daemon.outside.ask(own["address"].partition("/")[0], 80).server == "web"
    assert runtime.call("CHECK", "c1", theirs.path, prevResult=result) == (0, "", "")
    assert runtime.call("STATUS") == (0, "", "")
    for _ in range(2):
        runtime.delete("c1", theirs.path)
    assert state_of(place) == before
    eventually(lambda: not server.has_leased(own["address"].partition("/")[0]))
    daemon.api.delete("/networks/lan")


def test_cni_joins_a_network_with_dhcp_that_exists(daemon: RunningDaemon) -> None:
    daemon.api.network("lan", "macvlan", parent="uplink", ipam_driver="dhcp")
    theirs = daemon.host.container()
    runtime = Runtime(daemon, "lan")
    (own,) = runtime.add("c1", theirs.path)["ips"]
    assert is_leased(own["address"])
    runtime.delete("c1", theirs.path)
    runtime.add("c1", theirs.path, driver="macvlan", master="uplink", mode="bridge")
    runtime.delete("c1", theirs.path)
    for more in ({"driver": "bridge"}, {"driver": "macvlan", "mode": "vepa"}, {"ipam": {"subnet": "10.1.0.0/24"}}):
        assert runtime.refused("ADD", "c1", theirs.path, **more)["code"] == 7
    assert daemon.api.get("/services") == []


def test_cni_without_an_answer_leaves_nothing(fresh_daemon: RunningDaemon, server: DhcpServer) -> None:
    daemon = fresh_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write("dhcp_timeout = 2\n")
    daemon.start()
    server.stop()
    theirs = daemon.host.container()
    before = state_of(daemon.place(theirs.path))
    error = Runtime(daemon, "lan", **LAN).refused("ADD", "c1", theirs.path)
    assert (error["code"], "within 2 s" in error["msg"]) == (11, True)
    assert state_of(daemon.place(theirs.path)) == before
    assert daemon.dhcp_clients() == []
    assert "lan" not in [each["name"] for each in daemon.api.get("/networks")]


def test_podman_container_has_an_address_of_the_server(daemon: RunningDaemon, server: DhcpServer) -> None:
    theirs = daemon.host.container()
    place = daemon.place(theirs.path)
    place.sh("ip", "link", "set", "lo", "up")  # netavark does so, and leaves it
    before = state_of(place)
    options = {"driver": "macvlan", "parent": "uplink", "mode": "bridge"}
    podman = Podman(daemon, theirs.path, options=options, ipam_options={"driver": "dhcp"}, subnets=None)
    assert podman.plugin("create", message=podman.network)[0] == 0
    status, answer = podman("setup")
    assert status == 0, answer
    (subnet,) = answer["interfaces"]["eth0"]["subnets"]
    assert (is_leased(subnet["ipnet"]), subnet["gateway"]) == (True, OUTSIDE_ADDRESS)
    assert place.reaches(OUTSIDE_ADDRESS)
    until(lambda: lookup(place, "www") == [subnet["ipnet"].partition("/")[0]])
    for _ in range(2):
        assert podman("teardown")[0] == 0
    assert state_of(place) == before
    eventually(lambda: not server.has_leased(subnet["ipnet"].partition("/")[0]))
    daemon.api.delete("/networks/blue")
