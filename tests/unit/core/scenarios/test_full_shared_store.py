"""Several hosts whose shared store has no room: what it refuses, and what may not end because of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sandnet.core.cluster import host_membership
from sandnet.core.replication import follower
from sandnet.errors import Error
from sandnet.kernel.vxlan.base import Underlay
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hosts]:
    """Two hosts with the network ``net``; ``c1`` of the first one answers for ``web``. Their leases end in a second."""
    monkeypatch.setattr(host_membership, "LEASE", 1)
    monkeypatch.setattr(host_membership, "MARGIN", 0)
    monkeypatch.setattr(host_membership, "RETRY", (0.05, 0.2))
    monkeypatch.setattr(follower, "FIRST_ANSWER", 0.05)
    async with several_hosts(tmp_path) as found:
        await found[0].network()
        await found[0].endpoint("web")
        await found[0].join("c1", "web")
        await found[1].in_line()
        yield found


async def renewals(host: HostInProcess, number: int) -> None:
    """Wait until the lease of a host was renewed so often; it may not end meanwhile."""
    renewed = 0
    keep_alive = host.cluster.keep_alive

    def count(lease: int) -> float:
        nonlocal renewed
        renewed += 1
        return keep_alive(lease)

    host.cluster.keep_alive = count  # type: ignore[method-assign]
    await until(lambda: renewed >= number)
    host.cluster.keep_alive = keep_alive  # type: ignore[method-assign]
    assert host.has_lease


async def refusal(host: HostInProcess) -> Error:
    """The error with which a host refuses a creation."""
    with pytest.raises(Error) as refused:
        await host.endpoint("more")
    return refused.value


async def test_daemon_that_starts_keeps_its_lease(hosts: Hosts) -> None:
    one, two = hosts
    one.cluster.full = True
    await one.stop()
    await one.start()
    await renewals(one, 8)
    endpoint = one.attachments()[0].endpoint_id
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    one.cluster.full = False
    await until(lambda: one.joined)
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    await one.endpoint("more")


async def test_daemon_that_starts_names_the_way_out(hosts: Hosts) -> None:
    one, _ = hosts
    one.cluster.full = True
    await one.stop()
    await one.start()
    await until(one.problem)
    refused = await refusal(one)
    assert refused.code == "store_full"
    assert "disarm" in refused.hint


async def test_lease_lasts_while_a_new_address_cannot_be_published(hosts: Hosts) -> None:
    one, two = hosts
    one.cluster.full = True
    one.kernel.vxlan.found = Underlay(IPv4Address("10.99.0.101"), "uplink", 1500)
    await until(one.problem)
    await renewals(one, 8)
    one.cluster.full = False
    await until(lambda: two.controller._context.cluster.view.host("h1").underlay == IPv4Address("10.99.0.101"))  # type: ignore[union-attr]


@pytest.mark.parametrize("away", [False, True])
async def test_exited_container_is_removed(hosts: Hosts, away: bool) -> None:
    """Its endpoint stays, and that it has no container any more is written when that is possible."""
    one, two = hosts
    one.cluster.full = not away
    if away:
        one.shared.cut_off()
    (sandbox,) = one.controller.sandboxes.list()
    await one.controller.removal.remove_exited(sandbox)
    assert one.attachments() == []
    one.cluster.full = False
    one.shared.reconnect()
    await one.audit()
    (endpoint,) = one.controller.endpoints.list(one.controller.networks.find("net"))
    assert endpoint.orphaned
    seen = two.controller._context.records
    await until(lambda: (found := seen.endpoint(endpoint.id)) is not None and found.orphaned)
    await until(lambda: two.elsewhere(endpoint.id) == [])


async def test_silent_store_and_ended_lease_are_in_health(hosts: Hosts) -> None:
    one, two = hosts
    assert not one.controller.health().problems
    one.shared.cut_off()
    await until(lambda: any("has not answered" in problem for problem in one.controller.health().problems))
    await until(lambda: any("the lease of this host has ended" in each for each in one.controller.health().problems))
    await until(lambda: two.controller.nodes.figures().away == 1)
    assert one.controller.nodes.figures().lease == 0
    one.shared.reconnect()
    await until(lambda: not one.controller.health().problems)
    assert one.controller.nodes.figures().lease > 0
