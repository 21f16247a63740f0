"""A host that forwards because of us is no router between its other networks; one that forwarded before stays one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon import (
    HOST_ADDRESS,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RunningDaemon,
    mapping,
)
from tests.support.network_host import eventually
from tests.support.traffic import Place

THIRD, THIRD6 = "203.0.113.2", "2001:db8:3::2"
FAR = {4: OUTSIDE_ADDRESS, 6: OUTSIDE_ADDRESS6}
SWITCHES = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


@pytest.fixture
def third(fresh_daemon: RunningDaemon) -> Place:
    """A machine on another network of the host, which is its router. The daemon does not run yet."""
    daemon = fresh_daemon
    machine = daemon.host.container()
    sh = daemon.host.sh
    sh("ip", "link", "add", "third", "type", "veth", "peer", "name", "eth0", "netns", machine.path)
    for link, namespace, number in ("third", "", 1), ("eth0", machine.path, 2):
        sh("ip", "address", "add", f"203.0.113.{number}/24", "dev", link, namespace=namespace)
        sh("ip", "address", "add", f"2001:db8:3::{number}/64", "dev", link, "nodad", namespace=namespace)
        sh("ip", "link", "set", link, "up", namespace=namespace)
    sh("ip", "route", "add", "default", "via", "203.0.113.1", namespace=machine.path)
    sh("ip", "-6", "route", "add", "default", "via", "2001:db8:3::1", namespace=machine.path)
    for address in ("0.0.0.0", "::"):
        daemon.outside.serve("far", 7000, address=address)
    return daemon.place(machine.path)


def forward(daemon: RunningDaemon, switch: str, value: int) -> None:
    daemon.host.sh("sysctl", "-qw", f"{switch}={value}")


def passes(place: Place, version: int) -> bool:
    return not place.is_refused(FAR[version], 7000)


def switched(daemon: RunningDaemon) -> dict[int, str]:
    return {version: daemon.host.sh("sysctl", "-n", switch).strip() for version, switch in SWITCHES.items()}


def test_enabling_forwarding_keeps_other_host_networks_separate(fresh_daemon: RunningDaemon, third: Place) -> None:
    """Nor after a restart, nor after a repair, and ``down`` gives the switches back."""
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("blue", ipv6=True)
    sandbox = daemon.sandbox("blue", "web", mapping(80, 8080))
    sandbox.serve("web", 80)
    for _ in range(2):
        assert switched(daemon) == {4: "1", 6: "1"}
        assert [passes(third, version) for version in (4, 6)] == [False, False]
        assert third.ask("203.0.113.1", 8080).address == THIRD
        assert sandbox.ask(OUTSIDE_ADDRESS, 7000).address == HOST_ADDRESS
        assert sandbox.ask(OUTSIDE_ADDRESS6, 7000)
        daemon.kill()
        daemon.start()
    daemon.host.sh("nft", "delete", "table", "inet", "sandnet")
    eventually(lambda: "table inet sandnet" in daemon.host.sh("nft", "list", "tables"))
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    daemon.api.clear()
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    daemon.kill()
    daemon.start()
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    daemon.stop()
    daemon.down()
    assert switched(daemon) == {4: "0", 6: "0"}


@pytest.mark.parametrize("before", [4, 6])
def test_family_already_forwarding_is_not_filtered(fresh_daemon: RunningDaemon, third: Place, before: int) -> None:
    """Another program's traffic through the host is none of ours."""
    daemon = fresh_daemon
    forward(daemon, SWITCHES[before], 1)
    daemon.start()
    daemon.api.network("blue", ipv6=True)
    daemon.kill()
    daemon.start()
    eventually(lambda: passes(third, before))
    assert not passes(third, 10 - before)


def test_link_already_forwarding_is_not_filtered(fresh_daemon: RunningDaemon, third: Place) -> None:
    daemon = fresh_daemon
    for link in ("third", "uplink"):
        forward(daemon, f"net.ipv4.conf.{link}.forwarding", 1)
    eventually(lambda: passes(third, 4))
    daemon.start()
    daemon.api.network("blue")
    for _ in range(2):
        eventually(lambda: passes(third, 4))
        daemon.kill()
        daemon.start()
    daemon.api.clear()
    daemon.stop()
    daemon.down()
    assert switched(daemon)[4] == "0"
    eventually(lambda: passes(third, 4))


def test_forward_others_forwards_everything(fresh_daemon: RunningDaemon, third: Place) -> None:
    daemon = fresh_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write("forward_others = true\n")
    daemon.start()
    daemon.api.network("blue", ipv6=True)
    for version in (4, 6):  # a first packet may be lost while the host becomes a router
        eventually(partial(passes, third, version))


def test_host_stays_closed_after_state_loss_and_down_restores_it(fresh_daemon: RunningDaemon, third: Place) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("blue", ipv6=True)
    daemon.kill()
    shutil.rmtree(daemon.state)
    daemon.start()
    assert [network["name"] for network in daemon.api.get("/networks")].count("blue") == 1
    assert [passes(third, version) for version in (4, 6)] == [False, False]
    daemon.api.clear()
    daemon.stop()
    daemon.down()
    assert switched(daemon) == {4: "0", 6: "0"}


def test_adopted_or_ruleless_bridge_forwards_on_a_closed_host(fresh_daemon: RunningDaemon, third: Place) -> None:
    daemon = fresh_daemon
    daemon.host.sh("ip", "link", "add", "br0", "type", "bridge")
    daemon.start()
    daemon.api.network("blue", bridge_name="br0", ipv6=True)
    daemon.api.network("red", firewall=False)
    daemon.outside.sh("ip", "route", "add", "172.16.0.0/12", "via", HOST_ADDRESS)
    for network in ("blue", "red"):
        sandbox = daemon.sandbox(network, "one")
        assert sandbox.ask(OUTSIDE_ADDRESS, 7000)
    assert not passes(third, 4)


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(), reason="br_netfilter is not loaded"
)
def test_foreign_bridge_frames_pass_with_br_netfilter(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    sh = daemon.host.sh
    sh("ip", "link", "add", "br9", "type", "bridge")
    sh("ip", "link", "set", "br9", "up")
    places = []
    for number in (1, 2):
        machine = daemon.host.container()
        link = f"own{number}"
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", machine.path)
        sh("ip", "link", "set", link, "master", "br9", "up")
        sh("ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0", namespace=machine.path)
        sh("ip", "link", "set", "eth0", "up", namespace=machine.path)
        places.append(daemon.place(machine.path))
    daemon.host.sh("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    daemon.start()
    daemon.api.network("blue")
    places[1].serve("other", 80)
    assert places[0].ask("10.99.0.2", 80).server == "other"
