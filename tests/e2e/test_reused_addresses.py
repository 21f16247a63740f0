"""An address that goes to another container is reached at once, whoever remembers the MAC that it had."""

from __future__ import annotations

import time

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, JSON, RunningDaemon, Sandbox, mapping
from tests.support.time_limits import TRIES, in_time
from tests.support.traffic import UDP

pytestmark = pytest.mark.timeout(120)

SOON = 1.5
"""Seconds: a first question may be lost, and TCP asks again after one."""
ADDRESS, ADDRESS6 = "10.9.0.77", "fd00:9::77"


def make(daemon: RunningDaemon, name: str, host_port: int) -> Sandbox:
    """A container of that name with the address, and a published port of its own."""
    ports = (mapping(80, host_port), mapping(80, host_port, UDP))
    mac = f"02:00:00:00:00:{host_port % 100}"
    sandbox = daemon.sandbox("foo", name, *ports, address=ADDRESS, address_ipv6=ADDRESS6, mac=mac)
    for address in ("0.0.0.0", "::"):
        sandbox.serve(name, 80, address=address)
        sandbox.serve(name, 80, UDP, address=address)
    return sandbox


@pytest.fixture
def neighbour(daemon: RunningDaemon) -> Sandbox:
    daemon.api.network("foo", subnet="10.9.0.0/24", ipv6=True, subnet_ipv6="fd00:9::/64")
    return daemon.sandbox("foo", "neighbour")


def remove(daemon: RunningDaemon, sandbox: Sandbox) -> None:
    daemon.api.leave("foo", sandbox.endpoint, sandbox.container)
    daemon.api.delete(f"/networks/foo/endpoints/{sandbox.endpoint}")


def test_reused_address_is_reachable_despite_stale_neighbours(daemon: RunningDaemon, neighbour: Sandbox) -> None:
    in_time(lambda: seconds_to_reach_again(daemon, neighbour), lambda took: took, SOON)


def seconds_to_reach_again(daemon: RunningDaemon, neighbour: Sandbox) -> float:
    """How long all take to reach a container with the address that another had, which each has asked before."""
    before = make(daemon, "before", 8081)
    for place in (neighbour, daemon.here):
        for address in (ADDRESS, ADDRESS6):
            assert place.ask(address, 80).server == "before"
    remove(daemon, before)
    after = make(daemon, "after", 8082)
    assert after.mac != before.mac
    began = time.monotonic()
    for host in (HOST_ADDRESS, HOST_ADDRESS6):
        assert daemon.outside.ask(host, 8082).server == "after"
        assert daemon.outside.ask(host, 8082, UDP).server == "after"
    for place in (neighbour, daemon.here):
        for address in (ADDRESS, ADDRESS6):
            assert place.ask(address, 80).server == "after"
    took = time.monotonic() - began
    remove(daemon, after)
    return took


@pytest.mark.parametrize("ports", [(), (mapping(80, 8081),)], ids=["closed", "published"])
@pytest.mark.parametrize("address", [ADDRESS, ADDRESS6], ids=["ipv4", "ipv6"])
def test_wrong_mac_learned_during_a_join_is_announced_again(
    daemon: RunningDaemon, neighbour: Sandbox, address: str, ports: tuple[JSON, ...]
) -> None:
    remove(daemon, make(daemon, "former", 8083))
    wrong = ("ip", "neighbour", "replace", address, "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "reachable")

    def is_corrected(limit: float) -> bool:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if sandbox.mac in neighbour.sh("ip", "neighbour", "show", address):
                return True
            time.sleep(0.01)
        return False

    for _ in range(TRIES):  # where the machine stands still, all announcements may come before the wrong entry
        sandbox = daemon.sandbox("foo", "web", *ports, address=ADDRESS, address_ipv6=ADDRESS6)
        neighbour.sh(*wrong)
        if is_corrected(20):
            return
        remove(daemon, sandbox)
    pytest.fail("the wrong entry stays")


def test_reassigned_address_is_announced_only_by_its_holder(daemon: RunningDaemon, neighbour: Sandbox) -> None:
    """The first container goes on with another network, while its address belongs to the second."""
    daemon.api.network("bar")
    daemon.api.endpoint("bar", "other")
    before = make(daemon, "before", 8081)
    daemon.attach("bar", "other", before.container)
    daemon.api.leave("foo", "before", before.container)
    daemon.api.delete("/networks/foo/endpoints/before")
    make(daemon, "after", 8082)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert neighbour.ask(ADDRESS6, 80).server == "after"
        assert neighbour.ask(ADDRESS, 80).server == "after"
