"""Taps inside of sandboxes, for emulators that run there, with a stack of its own behind each (docs/microvms.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.daemon import JSON, RunningDaemon, mapping
from tests.support.network_host import eventually
from tests.support.other_stack import OtherStack
from tests.support.privileges import needs_other_users, needs_taps
from tests.support.taps import open_tap
from tests.support.traffic import TCP

pytestmark = needs_taps
OPTIONS: dict[str, JSON] = {"subnet": "10.9.0.0/24", "subnet_ipv6": "fd00:9::/64"}
OWNER, OTHER = 12345, 65534


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def joined(daemon: RunningDaemon, endpoint: str = "vm", network: str = "front", **more: JSON) -> JSON:
    """The tap of a virtual machine in its sandbox."""
    options = {"place": "sandbox", **more.pop("tap", {})}
    path = f"/networks/{network}/endpoints/{endpoint}/containers"
    return daemon.api.post(path, container_id="vm-1", type="tap", tap=options, **more)


def opened(daemon: RunningDaemon, tap: JSON, user: int = 0) -> int:
    return daemon.host.inside(tap["netns"], open_tap, tap["device"], user)


def guest(daemon: RunningDaemon, stack: ExitStack, tap: JSON, user: int = 0) -> OtherStack:
    """A stack behind the tap, as a guest sets it up."""
    made = OtherStack(daemon.host, opened(daemon, tap, user), tap["mac"], tap["address"], tap["address_ipv6"])
    stack.callback(made.close)
    made.sh("ip", "route", "add", "default", "via", tap["gateway"])
    made.sh("ip", "-6", "route", "add", "default", "via", tap["gateway_ipv6"])
    return made


def reaches(daemon: RunningDaemon, place: OtherStack, address: str) -> bool:
    return daemon.host.reaches(address, namespace=place.inside.path, seconds=1.0)


@needs_other_users
def test_guest_of_an_inner_tap_is_on_its_network(daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon.api.network("front", mtu=1400, **OPTIONS)
    web = daemon.sandbox("front", "web")
    daemon.api.endpoint("front", "vm", mapping(80, 8080))
    tap = joined(daemon, tap={"owner": OWNER, "queues": 1})
    assert (tap["device"], tap["netns"], tap["mtu"]) == ("tap0", str(daemon.netns / "vm-1"), 1400)
    assert (tap["gateway"], tap["name_servers"]) == ("10.9.0.1", ["10.9.0.1", "fd00:9::1"])
    shown = daemon.host.sh("ip", "-d", "link", "show", "dev", "tap0", namespace=tap["netns"])
    assert "mtu 1400" in shown
    assert f"user {OWNER}" in shown
    with pytest.raises(PermissionError):
        opened(daemon, tap, OTHER)
    vm = guest(daemon, stack, tap, OWNER)
    for address in (web.address, web.address6, "10.9.0.1", "fd00:9::1"):
        eventually(lambda address=address: reaches(daemon, vm, address))  # type: ignore[misc]
    address = tap["address"].partition("/")[0]
    assert web.reaches(address)
    assert vm.sh("dig", "@10.9.0.1", "+short", "web").strip() == web.address
    # published
    daemon.place(vm.inside.path).serve("guest", 80, TCP)
    answer = daemon.outside.ask("198.51.100.1", 8080, TCP)
    assert answer.server == "guest"
    # the namespace's own stack has no part in it
    assert "inet" not in daemon.host.sh("ip", "address", "show", "dev", "eth0", namespace=tap["netns"])


def test_inner_tap_sends_from_its_own_addresses_only(daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon.api.network("front", **OPTIONS)
    web = daemon.sandbox("front", "web")
    daemon.api.endpoint("front", "vm")
    vm = guest(daemon, stack, joined(daemon))
    eventually(lambda: reaches(daemon, vm, web.address))
    vm.sh("ip", "address", "add", "10.9.0.77/24", "dev", "eth0")
    with pytest.raises(AssertionError, match="100% packet loss"):
        vm.sh("ping", "-n", "-c1", "-W1", "-I", "10.9.0.77", web.address)
    assert "10.9.0.77" not in web.sh("ip", "neighbour")


def test_damaged_inner_tap_is_repaired(daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon.api.network("front", **OPTIONS)
    web = daemon.sandbox("front", "web")
    daemon.api.endpoint("front", "vm")
    tap = joined(daemon)

    def inside(*command: str) -> str:
        return daemon.host.sh(*command, namespace=tap["netns"])

    def joins() -> bool:
        shown = [inside("tc", "filter", "show", "dev", name, "ingress") for name in ("eth0", "tap0")]
        return "to device tap0" in shown[0] and "to device eth0" in shown[1]

    assert joins()
    vm = guest(daemon, stack, tap)
    inside("tc", "qdisc", "del", "dev", "eth0", "ingress")
    daemon.cli("doctor", "--fix")
    assert joins()
    inside("ip", "link", "set", "tap0", "down")
    eventually(lambda: "UP" in inside("ip", "-br", "link", "show", "dev", "tap0"))
    eventually(lambda: reaches(daemon, vm, web.address))
    inside("ip", "link", "del", "tap0")
    eventually(lambda: "tap0" in inside("ip", "-br", "link"))
    eventually(joins)


def test_inner_tap_survives_a_killed_daemon(fresh_daemon: RunningDaemon, stack: ExitStack) -> None:
    daemon = fresh_daemon
    daemon.start()
    daemon.api.network("front", **OPTIONS)
    web = daemon.sandbox("front", "web")
    daemon.api.endpoint("front", "vm")
    tap = joined(daemon)
    vm = guest(daemon, stack, tap)
    eventually(lambda: reaches(daemon, vm, web.address))
    daemon.kill()
    assert reaches(daemon, vm, web.address)
    daemon.start()
    assert daemon.api.get("/sandboxes/vm-1", verbose="true")["interfaces"][0]["tap"] == tap
    eventually(lambda: reaches(daemon, vm, web.address))
    daemon.down()
    assert not daemon.our_links()


def test_inner_tap_goes_with_its_leave(daemon: RunningDaemon) -> None:
    daemon.api.network("front", **OPTIONS)
    daemon.api.network("back")
    daemon.api.endpoint("front", "vm")
    daemon.api.endpoint("back", "vm")
    namespace = daemon.host.container()
    joined(daemon, netns=namespace.path)
    second = joined(daemon, network="back")
    assert second["device"] == "tap1"

    def links() -> str:
        return daemon.host.sh("ip", "-br", "link", namespace=namespace.path)

    descriptor = daemon.host.inside(namespace.path, open_tap, "tap1", 0)
    try:
        daemon.api.leave("back", "vm", "vm-1")
        assert "tap1" not in links()
        assert "tap0" in links()
    finally:
        os.close(descriptor)
    daemon.api.leave("front", "vm", "vm-1")
    assert [line.split()[0] for line in links().splitlines()] == ["lo"]
    assert not daemon.our_links() or all(name.startswith("snb") for name in daemon.our_links())


def test_taken_name_of_an_inner_tap_is_refused(daemon: RunningDaemon) -> None:
    daemon.api.network("front", **OPTIONS)
    daemon.api.endpoint("front", "vm")
    namespace = daemon.host.container()
    daemon.host.sh("ip", "link", "add", "tap0", "type", "bridge", namespace=namespace.path)
    with pytest.raises(AssertionError, match="tap0 is taken"):
        joined(daemon, netns=namespace.path)
    assert [line.split()[0] for line in daemon.host.sh(
        "ip", "-br", "link", namespace=namespace.path).splitlines()] == ["lo", "tap0"]  # fmt: skip
    daemon.host.sh("ip", "link", "del", "tap0", namespace=namespace.path)
    assert joined(daemon, netns=namespace.path)["device"] == "tap0"


def test_places_of_taps_do_not_mix(daemon: RunningDaemon) -> None:
    daemon.api.network("front", **OPTIONS)
    for name in ("vm", "two"):
        daemon.api.endpoint("front", name)
    joined(daemon)
    with pytest.raises(AssertionError, match="a tap in its sandbox on its other networks"):
        daemon.api.post("/networks/front/endpoints/two/containers", container_id="vm-1", type="tap")
    with pytest.raises(AssertionError, match="a tap in its sandbox on its other networks"):
        daemon.api.join("front", "two", "vm-1")
