"""Subnets that run out, and subnets that the host comes to use later."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network
from itertools import pairwise

import pytest
from msgspec.structs import replace

from sandnet.core.reconcile.subnet_conflicts import SubnetConflicts
from sandnet.core.state.events import Event
from sandnet.errors import Error, Kind
from sandnet.model import Network
from tests.support.core_in_process import CoreInProcess


async def test_exhausted_pools_refusal_names_what_uses_them(core: CoreInProcess) -> None:
    pools = (IPv4Network("10.80.0.0/23"), IPv4Network("10.81.0.0/22"), IPv4Network("10.82.0.0/25"))
    core.config = replace(core.config, pools=pools)
    core.kernel.host.routes = [("eth0", ip_network("10.81.0.0/23"))]
    core.kernel.host.nameservers = [ip_network("10.81.2.53/32")]
    await core.start()
    for name in ("a", "b", "c"):
        await core.network(name)
    await core.endpoint("web", "b")
    with pytest.raises(Error) as caught:
        await core.network("more")
    assert (caught.value.kind, caught.value.code) == (Kind.EXHAUSTED, "pools_exhausted")
    assert caught.value.message == (
        "no free /24 is left in the pools: 10.80.0.0/23 has 2, used 2 by networks (a, b); "
        "10.81.0.0/22 has 4, used 1 by networks (c) and 3 by the host's routes, addresses and nameservers "
        "(10.81.0.0/23, 10.81.2.53/32); 10.82.0.0/25 is smaller than that"
    )
    assert caught.value.hint.endswith("without endpoints: a, c")


async def test_networks_without_a_subnet_get_distinct_ones(core: CoreInProcess) -> None:
    nets = [await core.network(f"n{i}") for i in range(50)]
    firsts = sorted(int(net.ipv4.prefix.network_address) for net in nets if net.ipv4)
    assert len(firsts) == 50
    assert all(high - low >= 256 for low, high in pairwise(firsts))


async def warned(core: CoreInProcess, clashes: SubnetConflicts) -> Sequence[Event]:
    """The warnings of one look."""
    before = core.controller.events.last
    await clashes.check()
    last, found = core.controller.events.last, list[Event]()
    if last > before:
        async for event in core.controller.events.follow(before):
            found.append(event)
            if event.sequence >= last:
                break
    return found


async def test_later_host_route_warns_once_per_overlapped_network(
    core: CoreInProcess,
) -> None:
    core.unattended()
    records = core.controller._context.records
    clashes = SubnetConflicts(records, core.kernel.host, core.workers)
    for name, subnet in (("a", "10.9.0.0/24"), ("b", "10.9.1.0/24"), ("c", "10.10.0.0/24")):
        await core.network(name, subnet=ip_network(subnet))
    await core.network("d", subnet=ip_network("10.9.2.0/24"), allow_overlap=True)
    assert await warned(core, clashes) == []
    core.kernel.host.routes = [("tun0", ip_network("10.9.0.0/16"))]
    reported = await warned(core, clashes)
    assert [event.action for event in reported] == ["warning"] * 2
    assert [event.subject.name for event in reported if isinstance(event.subject, Network)] == ["a", "b"]
    assert "10.9.0.0/16" in reported[0].warning
    assert "10.9.0.0/24" in reported[0].warning
    assert await warned(core, clashes) == []
    core.kernel.host.routes = []
    assert await warned(core, clashes) == []
    core.kernel.host.routes = [("tun0", ip_network("10.9.0.7/32"))]
    assert len(await warned(core, clashes)) == 1


async def test_failed_overlap_warning_is_emitted_on_the_next_check(core: CoreInProcess) -> None:
    core.unattended()
    records = core.controller._context.records
    clashes = SubnetConflicts(records, core.kernel.host, core.workers)
    await core.network("a", subnet=ip_network("10.9.0.0/24"))
    core.kernel.host.routes = [("tun0", ip_network("10.9.0.0/16"))]
    core.store.refusal = Error(Kind.UNAVAILABLE, "the disk is full")
    with pytest.raises(Error):
        await clashes.check()
    assert [event.action for event in await warned(core, clashes)] == ["warning"]
    assert await warned(core, clashes) == []


async def test_subnet_used_by_the_host_requires_allow_overlap(
    core: CoreInProcess,
) -> None:
    core.kernel.host.routes = [("tun0", ip_network("10.9.0.0/16"))]
    with pytest.raises(Error) as caught:
        await core.network("a", subnet=ip_network("10.9.0.0/24"))
    assert (caught.value.kind, caught.value.code) == (Kind.CONFLICT, "subnet_taken")
    await core.network("a", subnet=ip_network("10.9.0.0/24"), allow_overlap=True)
    with pytest.raises(Error) as caught:  # two networks never
        await core.network("b", subnet=ip_network("10.9.0.0/25"), allow_overlap=True)
    assert "network a" in caught.value.message
