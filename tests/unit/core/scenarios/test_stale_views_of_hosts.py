"""A request that the state of a moment ago would refuse: another host has just made it possible."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from msgspec.structs import replace

from sandnet.core.replication import follower
from sandnet.errors import Error, Kind
from tests.support.hosts_in_process import DRIVER, HostInProcess, at_once, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts; the first one's container of ``web`` has just left, which the second one has not heard of."""
    async with several_hosts(tmp_path) as found:
        one, two = found
        await one.network()
        await one.endpoint("web")
        await one.join("c1", "web")
        await two.in_line()
        two.shared.delivers.clear()
        await one.leave("c1", "web")
        yield found


def tell_when_asked(host: HostInProcess) -> None:
    """Let the watch go on when the host looks into the store."""

    async def pace() -> None:
        host.pace = at_once
        host.shared.delivers.set()

    host.pace = pace


async def test_join_after_the_leave_on_another_host(hosts: Hosts) -> None:
    _, two = hosts
    tell_when_asked(two)
    await two.join("c2", "web")
    assert [each.container_id for each in two.attachments()] == ["c2"]


@pytest.mark.parametrize(("what", "force"), [("endpoint", False), ("endpoint", True), ("network", True)])
async def test_deletion_after_the_leave_on_another_host(hosts: Hosts, what: str, force: bool) -> None:
    one, two = hosts
    tell_when_asked(two)
    removal = two.controller.removal
    await (removal.network("net", force=force) if what == "network" else removal.endpoint("net", "web", force=force))
    await one.in_line()
    assert not one.controller._context.records.endpoints()


async def test_join_is_refused_while_the_store_cannot_be_asked(hosts: Hosts) -> None:
    _, two = hosts
    two.shared.cut_off()
    with pytest.raises(Error) as refused:
        await two.join("c2", "web")
    assert refused.value.code == "joined_elsewhere"
    two.shared.delivers.set()


SUBNET = IPv6Network("fd00:9:9::/64")


async def add_subnet(host: HostInProcess, network: str) -> None:
    """Add an IPv6 subnet to a network that exists."""
    await host.controller.network_updates.update(
        network, lambda net: replace(net.options, ipv6=True, subnet_ipv6=SUBNET), None
    )


@pytest.fixture
async def late_hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with the networks ``net`` and ``other``; the second one does not see what the first one does now."""
    async with several_hosts(tmp_path) as found:
        one, two = found
        for name in ("net", "other"):
            await one.network(name)
        await two.in_line()
        two.shared.delivers.clear()
        yield found


async def test_subnet_that_a_network_got_is_not_given_to_another(
    late_hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "CATCH_UP", 0.01)
    one, two = late_hosts
    await add_subnet(one, "net")
    with pytest.raises(Error, match="was given to another network") as refused:
        await add_subnet(two, "other")
    assert refused.value.kind is Kind.CONFLICT
    two.shared.delivers.set()
    await two.in_line()
    found = {net.name: net.ipv6 is not None for net in two.controller.networks.list() if net.driver == DRIVER}
    assert found == {"net": True, "other": False}


async def test_subnet_that_a_network_got_is_free_when_it_is_deleted(late_hosts: Hosts) -> None:
    one, two = late_hosts
    await add_subnet(one, "net")
    await one.controller.removal.network("net")
    await add_subnet(two, "other")
    await one.in_line()
    assert one.controller.networks.find("other").ipv6
