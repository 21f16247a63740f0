"""Additional addresses of endpoints on networks of several hosts: every host has them, and none gives them away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from msgspec.structs import replace

from sandnet.core.cluster.shared_values import HOSTS, HostRecord, decode, encode
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Address
from sandnet.stores.base import Put
from tests.support.conditions import until
from tests.support.hosts_in_process import DRIVER, HostInProcess, several_hosts

Hosts = list[HostInProcess]
SUBNET = IPv4Network("10.7.0.0/24")
FURTHER = IPv4Address("10.7.0.50")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as hosts:
        yield hosts


async def shared_endpoint(hosts: Hosts) -> str:
    """An endpoint of host 1 with an additional address, known to host 2; its id."""
    one, two = hosts
    await one.network(subnet=SUBNET)
    endpoint = await one.endpoint("web", additional_addresses=(FURTHER,))
    await two.in_line()
    return endpoint


def peer_addresses(host: HostInProcess) -> set[Address]:
    """The addresses of all peers that the host's driver has."""
    driver = host.controller._context.drivers[DRIVER]
    assert isinstance(driver, OverlayDriver)
    found = (peer for table in driver._tables.values() for peer in table._peers.values())
    return {address for peer in found for address in peer.addresses}


async def test_other_hosts_reach_the_additional_address(hosts: Hosts) -> None:
    one, two = hosts
    await shared_endpoint(hosts)
    await one.join("c1", "web")
    await until(lambda: FURTHER in peer_addresses(two))
    await one.leave("c1", "web")
    await until(lambda: FURTHER not in peer_addresses(two))
    await two.join("c2", "web")
    (attachment,) = two.attachments()
    assert [each.ip for each in attachment.additional_addresses] == [FURTHER]
    await until(lambda: FURTHER in peer_addresses(one))
    await two.stop()
    await two.start()
    await two.in_line()
    assert not await two.controller.reconcile.run(fix=False)


async def test_no_host_gives_the_address_to_another(hosts: Hosts) -> None:
    one, two = hosts
    await shared_endpoint(hosts)
    for host in hosts:
        with pytest.raises(Error) as refused:
            await host.endpoint("other", address=FURTHER)
        assert refused.value.kind is Kind.CONFLICT
    await two.controller.removal.endpoint("net", "web")
    await one.in_line()
    await one.endpoint("other", additional_addresses=(FURTHER,))


async def test_endpoint_has_one_container_on_all_hosts(hosts: Hosts) -> None:
    one, two = hosts
    await shared_endpoint(hosts)
    await one.join("c1", "web")
    await two.in_line()
    with pytest.raises(Error, match="c1 on host h1"):
        await two.join("c2", "web", many=True)


async def test_hosts_that_cannot_read_them_prevent_them(hosts: Hosts) -> None:
    """An earlier release would ignore the addresses, and lose them when it changes the endpoint."""
    one, two = hosts
    await one.network(subnet=SUBNET)
    entry = one.cluster.contents.get(f"{HOSTS}h2")
    assert entry
    older = replace(decode(entry.value, HostRecord), formats=(1,))
    await two.shared.transact([Put(f"{HOSTS}h2", encode(older))], ())
    await one.in_line()
    with pytest.raises(Error, match="h2") as refused:
        await one.endpoint("web", additional_addresses=(FURTHER,))
    assert (refused.value.kind, refused.value.code) == (Kind.CONFLICT, "older_hosts")
    await one.endpoint("web")
