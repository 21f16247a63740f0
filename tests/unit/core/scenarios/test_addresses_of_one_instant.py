"""An address that two hosts want at the same instant: the store gives it to one, and the other one knows that."""

from __future__ import annotations

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
