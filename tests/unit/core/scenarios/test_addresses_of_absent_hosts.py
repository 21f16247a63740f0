"""The addresses of hosts that are away: allocated last, so that a short outage gives none away, and free if needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from sandnet.errors import Error
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
NAMES = ["a", "b", "c"]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with a network of five addresses, of which endpoints of the first one, which is away, had three."""
    async with several_hosts(tmp_path) as found:
        await found[0].network(subnet=ip_network("10.60.0.0/29"))
        for name in NAMES:
            await found[0].endpoint(name, owner="cni/x/eth0")
        await found[1].in_line()
        found[0].shared.cut_off()
        found[0].end_lease()
        await until(lambda: found[1].names() == [])
        yield found
        found[0].shared.reconnect()


async def test_short_outage_gives_no_address_away(hosts: Hosts) -> None:
    one, two = hosts
    for name in ("x", "y"):
        await two.endpoint(name)
    one.shared.reconnect()
    await until(lambda: one.names() == two.names() == [*NAMES, "x", "y"])


async def test_last_addresses_are_those_of_the_absent_host(hosts: Hosts) -> None:
    _, two = hosts
    for number in range(5):
        await two.endpoint(f"x{number}")
    with pytest.raises(Error, match="no free address"):
        await two.endpoint("more")


async def test_address_is_allocated_in_turn_when_it_was_released(hosts: Hosts) -> None:
    one, two = hosts
    one.shared.reconnect()
    await until(lambda: two.names() == NAMES)
    for name in NAMES:
        await one.controller.removal.endpoint("net", name)
    await two.in_line()
    (network,) = two.controller._context.records.networks_named("net")
    assert not two.controller._context.leases._avoided_in(network)


async def test_address_of_an_absent_backend_can_be_requested(tmp_path: Path) -> None:
    """Its claim stayed until the host was removed: a request of the address was refused for ever."""
    async with several_hosts(tmp_path) as (one, two):
        await one.network()
        await one.endpoint("web")
        await one.join("c1", "web", many=True)
        await one.join("c2", "web", many=True)
        await two.in_line()
        (backend,) = [each for each in one.attachments() if each.leased]
        assert backend.address
        one.shared.cut_off()
        one.end_lease()
        await until(lambda: not two.elsewhere(backend.endpoint_id))
        taken = await two.endpoint("taker", address=backend.address.ip)
        found = two.controller._context.records.endpoint(taken)
        assert found
        assert found.address == backend.address
        one.shared.reconnect()
        await until(lambda: one.joined and not [each for each in one.attachments() if each.leased])
        await one.join("c3", "web", many=True)
