"""Local networks of several hosts, which do not know them of each other, beside the networks of all hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, cast

import pytest

from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Network, NetworkOptions, NetworkSpec
from tests.support.conditions import until
from tests.support.hosts_in_process import DRIVER, HostInProcess, several_hosts

Hosts = list[HostInProcess]
SUBNET: Final = IPv4Network("10.61.0.0/24")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


async def local(host: HostInProcess, name: str, subnet: IPv4Network | None = None) -> Network:
    """Create a network of this host alone."""
    spec = NetworkSpec(name=name, driver="bridge", options=NetworkOptions(subnet=subnet))
    return await host.controller.networks.create(spec)


async def test_chosen_subnets_of_all_hosts_are_in_no_local_network(hosts: Hosts) -> None:
    one, two = hosts
    own = [await local(two, f"own{i}") for i in range(3)]
    for i in range(3):
        await one.network(f"all{i}")
    await two.in_line()
    shared = [two.controller.networks.find(f"all{i}") for i in range(3)]
    prefixes = [prefix for net in (*own, *shared) for prefix in net.prefixes]
    assert not [(a, b) for a in prefixes for b in prefixes if a is not b and a.overlaps(b)]
    assert not two.controller.health().problems


async def test_network_that_is_being_made_here_is_not_found(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = hosts
    segment = cast(OverlayDriver, two.controller._context.drivers[DRIVER])._segment
    make, begun, proceed = segment.create_network, asyncio.Event(), asyncio.Event()

    async def slowly(net: Network) -> Network:
        begun.set()
        await proceed.wait()
        return await make(net)

    monkeypatch.setattr(segment, "create_network", slowly)
    await one.network("all")
    await begun.wait()
    with pytest.raises(Error) as refused:
        two.controller.networks.find("all")
    assert refused.value.kind is Kind.NOT_FOUND
    proceed.set()
    await until(lambda: two.controller.networks.list(name="all"))


async def test_requested_subnet_of_a_local_network_elsewhere(hosts: Hosts) -> None:
    """That host goes without the new network, keeps its own, says so, and has the new one once it can."""
    one, two = hosts
    await local(two, "own", SUBNET)
    await one.network("all", subnet=IPv4Network("10.61.0.0/16"))
    follower = two.controller._follower
    assert follower
    await until(lambda: follower.problems)
    assert "network own has 10.61.0.0/16, too" in str(follower.problems)
    with pytest.raises(Error, match=r"network own has 10\.61\.0\.0/16, too") as refused:
        two.controller.networks.find("all")
    assert refused.value.kind is Kind.CONFLICT
    await two.controller.removal.network("own")
    await until(lambda: two.controller.networks.list(name="all"))
    await until(lambda: not follower.problems)
