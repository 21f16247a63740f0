"""An address that goes to another container is reached at once, whoever remembers the MAC that it had."""

from __future__ import annotations

import time

import pytest

from tests.support.daemon import HOST_ADDRESS, HOST_ADDRESS6, JSON, Box, World, mapping
from tests.support.network_host import eventually
from tests.support.traffic import UDP

pytestmark = pytest.mark.timeout(120)

SOON = 1.5
"""Seconds: a first question may be lost, and TCP asks again after one."""
ADDRESS, ADDRESS6 = "10.9.0.77", "fd00:9::77"


def make(world: World, name: str, host_port: int) -> Box:
    """A container of that name with the address, and a published port of its own."""
    ports = (mapping(80, host_port), mapping(80, host_port, UDP))
    mac = f"02:00:00:00:00:{host_port % 100}"
    box = world.box("foo", name, *ports, address=ADDRESS, address_ipv6=ADDRESS6, mac=mac)
    for address in ("0.0.0.0", "::"):
        box.serve(name, 80, address=address)
        box.serve(name, 80, UDP, address=address)
    return box


@pytest.fixture
def neighbour(world: World) -> Box:
    world.api.network("foo", subnet="10.9.0.0/24", ipv6=True, subnet_ipv6="fd00:9::/64")
    return world.box("foo", "neighbour")


def test_given_an_address_that_all_remember_when_another_container_gets_it_then_it_is_reached_at_once(
    world: World, neighbour: Box
) -> None:
    before = make(world, "before", 8081)
    for place in (neighbour, world.here):
        for address in (ADDRESS, ADDRESS6):
            assert place.ask(address, 80).server == "before"
    world.api.leave("foo", "before", before.container)
    world.api.delete("/networks/foo/endpoints/before")
    after = make(world, "after", 8082)
    assert after.mac != before.mac
    began = time.monotonic()
    for host in (HOST_ADDRESS, HOST_ADDRESS6):
        assert world.outside.ask(host, 8082).server == "after"
        assert world.outside.ask(host, 8082, UDP).server == "after"
    for place in (neighbour, world.here):
        for address in (ADDRESS, ADDRESS6):
            assert place.ask(address, 80).server == "after"
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("ports", [(), (mapping(80, 8081),)], ids=["closed", "published"])
@pytest.mark.parametrize("address", [ADDRESS, ADDRESS6], ids=["ipv4", "ipv6"])
def test_given_a_wrong_mac_that_a_neighbour_remembers_when_the_join_is_over_then_it_is_announced_again(
    world: World, neighbour: Box, address: str, ports: tuple[JSON, ...]
) -> None:
    box = world.box("foo", "web", *ports, address=ADDRESS, address_ipv6=ADDRESS6)
    wrong = ("ip", "neighbour", "replace", address, "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "reachable")
    neighbour.sh(*wrong)
    eventually(lambda: box.mac in neighbour.sh("ip", "neighbour", "show", address), 5)


def test_given_an_address_that_went_to_another_when_announced_again_then_only_by_its_holder(
    world: World, neighbour: Box
) -> None:
    """The first container goes on with another network, while its address belongs to the second."""
    world.api.network("bar")
    world.api.endpoint("bar", "other")
    before = make(world, "before", 8081)
    world.attach("bar", "other", before.container)
    world.api.leave("foo", "before", before.container)
    world.api.delete("/networks/foo/endpoints/before")
    make(world, "after", 8082)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert neighbour.ask(ADDRESS6, 80).server == "after"
        assert neighbour.ask(ADDRESS, 80).server == "after"
