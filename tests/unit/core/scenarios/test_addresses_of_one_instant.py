"""An address that two hosts want at the same instant: the store gives it to one, and the other one knows that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from sandnet.errors import Error
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, at_once, several_hosts

Hosts = list[HostInProcess]
WANTED = IPv4Address("10.99.1.7")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with a network; its subnet is known."""
    async with several_hosts(tmp_path) as found:
        await found[0].network(subnet=IPv4Network("10.99.1.0/24"))
        await found[1].in_line()
        yield found


def before_its_request(host: HostInProcess, first: Callable[[], Awaitable[object]]) -> None:
    """Let something else happen, and be seen on the host, while its next request is on its way."""

    async def pace() -> None:
        host.pace = at_once
        await first()
        await until(lambda: "web" in host.names())

    host.pace = pace


async def test_endpoint_with_the_requested_address_is_named(hosts: Hosts) -> None:
    one, two = hosts
    before_its_request(two, lambda: one.endpoint("web", address=WANTED))
    with pytest.raises(Error, match=r"10\.99\.1\.7 on network net is held by endpoint web") as refused:
        await two.endpoint("db", address=WANTED)
    assert refused.value.code == "address_taken"
    assert two.names() == ["web"]


async def test_refused_address_is_not_free_here(hosts: Hosts) -> None:
    """The refused creation gave it back to the allocator, which offered it again and again."""
    one, two = hosts
    before_its_request(two, lambda: one.endpoint("web", address=WANTED))
    with pytest.raises(Error):
        await two.endpoint("db", address=WANTED)
    sent = one.cluster.contents.revision
    two.shared.cut_off()
    with pytest.raises(Error) as refused:  # decided without the store
        await two.endpoint("cache", address=WANTED)
    assert refused.value.code == "address_taken"
    assert one.cluster.contents.revision == sent


async def test_refused_address_of_a_backend_is_not_free_here(hosts: Hosts) -> None:
    one, two = hosts
    await one.endpoint("service")
    await two.in_line()
    await one.join("c1", "service", many=True)
    await two.in_line()
    await two.join("c2", "service", many=True)
    wanted: list[IPv4Address] = []

    async def take_the_next_address() -> None:
        two.pace = at_once
        (attachment,) = (each for each in two.attachments() if each.container_id == "c3")
        assert isinstance(attachment.address, IPv4Interface)
        wanted.append(attachment.address.ip)
        await one.endpoint("web", address=wanted[0])
        await until(lambda: "web" in two.names())

    two.pace = take_the_next_address
    await two.join("c3", "service", many=True)
    await two.join("c4", "service", many=True)
    assert str(wanted[0]) not in [str(each.address.ip) for each in two.attachments() if each.address]
    two.shared.cut_off()
    with pytest.raises(Error) as refused:
        await two.endpoint("cache", address=wanted[0])
    assert refused.value.code == "address_taken"


async def test_many_hosts_choose_addresses_of_one_network_at_once(tmp_path: Path) -> None:
    """Each took the next free address, so one of nine got it, and some gave up after 16 attempts."""
    async with several_hosts(tmp_path, 9) as found:
        await found[0].network(subnet=IPv4Network("10.99.0.0/16"))
        for host in found:
            await host.in_line()

        async def create(host: HostInProcess) -> None:
            for number in range(12):
                await host.endpoint(f"{host.name}-{number}")

        await asyncio.gather(*map(create, found))
        for host in found:
            await host.in_line()
        assert len(found[0].names()) == 9 * 12


async def test_many_hosts_create_a_network_at_once(tmp_path: Path) -> None:
    """Each took the lowest subnet and VNI that were free, so one of them got it, and some gave up after 16 attempts."""
    async with several_hosts(tmp_path, 24) as found:
        for host in found:
            host.pace = lambda: asyncio.sleep(0.002)
        await asyncio.gather(*(host.network(host.name) for host in found))
        await found[0].in_line()
        networks = [found[0].controller.networks.find(host.name) for host in found]
        assert len({net.vni for net in networks}) == len({net.ipv4 for net in networks}) == len(found)
