"""Subnets that overlap without being the same, wanted on two hosts at one instant: one of them gets its subnet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations, count
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from sandnet.core.cluster import subnet_claims
from sandnet.core.replication import follower
from sandnet.errors import Error, Kind
from sandnet.model import Network, NetworkOptions, NetworkSpec
from sandnet.stores.base import Delete, Put
from tests.support.conditions import until
from tests.support.hosts_in_process import DRIVER, HostInProcess, at_once, several_hosts
from tests.support.store_truth import claim_faults

Hosts = list[HostInProcess]
WIDE: Final = IPv4Network("10.61.0.0/16")
NARROW: Final = IPv4Network("10.61.7.0/24")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with several_hosts(tmp_path) as found:
        yield found
        for host in found:
            host.shared.delivers.set()
            await host.in_line()
            refuse_overlaps(host)
            assert not host.controller.health().problems
        assert claim_faults(found[0].cluster.contents.list("")) == []


_vnis = count(5000)


async def network(host: HostInProcess, name: str, subnet: IPv4Network | None = None) -> None:
    """Create a network of all hosts, with a VNI that is not the reason of any refusal."""
    await host.network(name, subnet=subnet, vni=next(_vnis))


def made(host: HostInProcess) -> list[str]:
    """Return the names of the networks of all hosts, as this one has them."""
    return sorted(net.name for net in host.controller.networks.list() if net.driver == DRIVER)


def refuse_overlaps(host: HostInProcess) -> None:
    networks = [net for net in host.controller.networks.list() if net.driver == DRIVER]
    for one, other in combinations(networks, 2):
        assert not [(a, b) for a in one.prefixes for b in other.prefixes if a.version == b.version and a.overlaps(b)]


def before_its_request(host: HostInProcess, first: Callable[[], Awaitable[object]]) -> None:
    """Let something else happen while the host's next request is on its way."""

    async def pace() -> None:
        host.pace = at_once
        await first()

    host.pace = pace


async def add_subnet(host: HostInProcess, network: str, subnet: IPv6Network) -> None:
    await host.controller.network_updates.update(
        network, lambda net: replace(net.options, ipv6=True, subnet_ipv6=subnet), None
    )


@pytest.mark.parametrize(("first", "second"), [(WIDE, NARROW), (NARROW, WIDE)], ids=["wide first", "narrow first"])
async def test_overlap_of_one_instant_is_refused_by_name(hosts: Hosts, first: IPv4Network, second: IPv4Network) -> None:
    one, two = hosts
    before_its_request(two, lambda: network(one, "first", first))
    with pytest.raises(Error, match="first") as refused:
        await network(two, "second", second)
    assert refused.value.code == "subnet_taken"
    await two.in_line()
    assert made(one) == made(two) == ["first"]


async def test_overlap_that_arrives_during_the_plan_is_refused(hosts: Hosts) -> None:
    """The view has it before the transaction, though it was not there when the subnet was compared."""
    one, two = hosts
    driver = two.controller._context.drivers[DRIVER]
    create = driver.create_network

    async def late(net: Network) -> Network:
        if net.name == "second" and not made(one):
            await network(one, "first", WIDE)
            await until(lambda: two.shared.cluster.contents.revision == seen(two))
        return await create(net)

    driver.create_network = late  # type: ignore[method-assign]
    with pytest.raises(Error, match="first") as refused:
        await network(two, "second", NARROW)
    assert refused.value.code == "subnet_taken"


def seen(host: HostInProcess) -> int:
    """Return the revision that the host has read."""
    cluster = host.controller._context.cluster
    assert cluster
    return cluster.view.revision


async def test_one_of_three_overlapping_networks_is_made(tmp_path: Path) -> None:
    async with several_hosts(tmp_path, 3) as found:
        for host in found:
            host.pace = lambda: asyncio.sleep(0.002)
        wanted = [IPv4Network(f"10.61.0.0/{size}") for size in (16, 20, 24)]
        outcomes = await asyncio.gather(
            *(network(host, host.name, subnet) for host, subnet in zip(found, wanted, strict=True)),
            return_exceptions=True,
        )
        refusals = [each for each in outcomes if isinstance(each, Error)]
        assert {each.kind for each in refusals} == {Kind.CONFLICT}
        assert len(refusals) == 2
        for host in found:
            await host.in_line()
            assert len(made(host)) == 1


async def test_chosen_subnet_that_another_overlaps_is_chosen_anew(hosts: Hosts) -> None:
    one, two = hosts
    taken: list[IPv4Network] = []

    async def overlap() -> None:
        (planned,) = (net for net in two.controller._context.records.networks() if net.name == "second")
        assert planned.ipv4
        taken.append(IPv4Network(str(planned.ipv4.prefix)).supernet(new_prefix=20))
        await network(one, "first", taken[0])

    before_its_request(two, overlap)
    await network(two, "second")
    await one.in_line()
    assert made(one) == ["first", "second"]
    second = one.controller.networks.find("second").ipv4
    assert second
    assert not taken[0].overlaps(IPv4Network(str(second.prefix)))


async def test_other_subnet_of_one_instant_changes_nothing(hosts: Hosts) -> None:
    """The network is not made anew: its transaction is sent once more."""
    one, two = hosts
    driver = two.controller._context.drivers[DRIVER]
    create, created = driver.create_network, list[str]()

    async def counted(net: Network) -> Network:
        created.append(net.name)
        return await create(net)

    driver.create_network = counted  # type: ignore[method-assign]
    before_its_request(two, lambda: network(one, "first", IPv4Network("10.62.0.0/24")))
    await network(two, "second", NARROW)
    assert created.count("second") == 1
    await one.in_line()
    assert made(one) == ["first", "second"]


async def test_network_is_refused_while_the_overlap_is_unseen(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "CATCH_UP", 0.01)
    one, two = hosts
    two.shared.delivers.clear()
    await network(one, "first", WIDE)
    with pytest.raises(Error, match=r"10\.61\.0\.0/16, which network second overlaps, was given to") as refused:
        await network(two, "second", NARROW)
    assert (refused.value.kind, refused.value.code) == (Kind.CONFLICT, "claimed_elsewhere")
    assert not two.leftovers()


async def test_added_subnet_that_overlaps_is_refused_by_name(hosts: Hosts) -> None:
    one, two = hosts
    for name in ("first", "second"):
        await network(one, name)
    await two.in_line()
    before_its_request(two, lambda: add_subnet(one, "first", IPv6Network("fd00:9:9::/64")))
    with pytest.raises(Error, match="first") as refused:
        await add_subnet(two, "second", IPv6Network("fd00:9:9::/80"))
    assert refused.value.code == "subnet_taken"


async def test_network_that_is_not_here_keeps_its_subnet(hosts: Hosts) -> None:
    """A network of this host alone has addresses of it; no third one gets them on all hosts."""
    one, two = hosts
    spec = NetworkSpec(name="own", driver="bridge", options=NetworkOptions(subnet=NARROW))
    await two.controller.networks.create(spec)
    await network(one, "first", WIDE)
    following = two.controller._follower
    assert following
    await until(lambda: following.problems)
    with pytest.raises(Error, match="first") as refused:
        await network(two, "second", IPv4Network("10.61.8.0/24"))
    assert refused.value.code == "subnet_taken"
    await two.controller.removal.network("own")
    await until(lambda: made(two) == ["first"])


async def test_own_subnets_of_one_instant_are_all_claimed(hosts: Hosts) -> None:
    one, two = hosts
    one.shared.delivers.clear()
    await asyncio.gather(*(network(one, f"n{i}", IPv4Network(f"10.61.{i}.0/24")) for i in range(20)))
    await two.in_line()
    assert len(made(two)) == 20


async def test_claims_that_never_end_are_given_up(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refuses the transaction, though none overlaps."""
    monkeypatch.setattr(follower, "CATCH_UP", 0.01)
    monkeypatch.setattr(subnet_claims, "ROUNDS", 3)
    one, two = hosts
    rounds = 0

    async def claim() -> None:
        nonlocal rounds
        rounds += 1
        one.cluster.transact([Put(f"claim/subnet/10.62.{rounds}.0/24", b"other")], [], {})

    two.pace = claim
    with pytest.raises(Error, match="a subnet was given to another network") as refused:
        await network(two, "second", NARROW)
    assert refused.value.code == "claimed_elsewhere"
    two.pace = at_once
    for entry in one.cluster.contents.list("claim/subnet/10.62."):
        one.cluster.transact([Delete(entry.key)], [], {})
    await network(two, "second", NARROW)


async def test_many_hosts_get_subnets_that_do_not_overlap(tmp_path: Path) -> None:
    async with several_hosts(tmp_path, 24) as found:
        for host in found:
            host.pace = lambda: asyncio.sleep(0.002)
        await asyncio.gather(
            *(network(host, host.name, IPv4Network(f"10.61.{i}.0/24")) for i, host in enumerate(found))
        )
        await found[0].in_line()
        assert made(found[0]) == sorted(host.name for host in found)
