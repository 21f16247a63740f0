"""A network that gets what another one had, which this host is still removing: its VNI, and its subnet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, cast

import pytest

from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.model import Network
from tests.support.conditions import until
from tests.support.hosts_in_process import DRIVER, HostInProcess, several_hosts

Hosts = list[HostInProcess]
SUBNET: Final = IPv4Network("10.60.0.0/24")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


def network(host: HostInProcess, name: str) -> Network | None:
    return next(iter(host.controller.networks.list(name=name)), None)


@pytest.mark.parametrize("options", [{}, {"subnet": SUBNET, "vni": 9000}], ids=["VNI and subnet", "subnet"])
async def test_network_waits_for_the_removal_of_the_one_before(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Otherwise the removal takes the element of the VNI from the new network."""
    one, two = hosts
    await one.network("former", subnet=SUBNET)
    await two.in_line()
    former = network(two, "former")
    segment = cast(OverlayDriver, two.controller._context.drivers[DRIVER])._segment
    remove, begun, proceed = segment.delete_network, asyncio.Event(), asyncio.Event()

    async def slowly(net: Network) -> None:
        begun.set()
        await proceed.wait()
        await remove(net)

    monkeypatch.setattr(segment, "delete_network", slowly)
    await one.controller.removal.network("former")
    await begun.wait()
    await one.network("next", **(options or {"subnet": SUBNET}))
    follower = two.controller._follower
    assert follower
    await until(lambda: network(two, "next") or follower.problems)
    proceed.set()
    await until(lambda: network(two, "next"))
    found = network(two, "next")
    assert former
    assert found
    assert found.ipv4 == former.ipv4
    assert (found.vni == former.vni) == (not options)
    await until(lambda: not follower.problems)
    assert await two.controller.reconcile.run(fix=False) == []
