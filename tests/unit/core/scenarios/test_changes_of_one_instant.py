"""Two hosts change the same at one instant: neither undoes what the other one did, and all claims have their holder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.updates.endpoint_update import EndpointUpdates
from sandnet.core.replication import follower, work_queue
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import BoundPort, Network
from sandnet.model.interfaces.bandwidth import Bandwidth
from sandnet.stores.base import Change, Put
from tests.support.conditions import until
from tests.support.core_in_process import mapping
from tests.support.hosts_in_process import DRIVER, HostInProcess, several_hosts
from tests.support.store_truth import claim_faults

Hosts = list[HostInProcess]
SUBNET = IPv6Network("fd00:9:9::/64")
LIMITS = Bandwidth(egress_rate=1_000_000)


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with the network ``net``, on which ``web`` is."""
    async with several_hosts(tmp_path) as found:
        await found[0].network()
        await found[0].endpoint("web")
        await found[1].in_line()
        yield found
        for host in found:
            await host.in_line()
        assert claim_faults(found[0].cluster.contents.list("")) == []


async def add_subnet(host: HostInProcess, network: str) -> None:
    await host.controller.network_updates.update(
        network, lambda net: replace(net.options, ipv6=True, subnet_ipv6=SUBNET), None
    )


async def label(host: HostInProcess, name: str) -> None:
    await host.controller.network_updates.update("net", None, lambda labels: {**labels, name: "1"})


def seen(host: HostInProcess) -> Network:
    """What the host has read of the network, and may not have looked at."""
    cluster = host.controller._context.cluster
    assert cluster
    (network_id,) = (each for each in cluster.view.network_ids())
    shared = cluster.view.network(network_id)
    assert shared
    return shared.network


async def test_change_keeps_the_subnet_that_came_during_it(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = hosts
    driver = cast(OverlayDriver, two.controller._context.drivers[DRIVER])
    plan_update, first = driver.plan_update, True

    async def late(net: Network, others: Sequence[Network]) -> Network:
        nonlocal first
        if first:
            first = False
            await add_subnet(one, "net")
            await until(lambda: seen(two).ipv6)
        return await plan_update(net, others)

    monkeypatch.setattr(driver, "plan_update", late)
    await two.controller.network_updates.update("net", lambda net: replace(net.options, mtu=1300), None)
    for host in hosts:
        await host.in_line()
        found = host.controller.networks.find("net")
        assert (found.ipv6 is not None, found.options.mtu) == (True, 1300)


async def test_labels_of_two_hosts_are_kept(hosts: Hosts) -> None:
    one, two = hosts
    await two.join("c1", "web")
    await two.in_line()
    async with two.controller._context.locks.hold("sandbox/c1"):
        change = asyncio.create_task(label(two, "b"))
        await until(lambda: two.waits_for("sandbox/c1"))
        await label(one, "a")
        await until(lambda: seen(two).labels == {"a": "1"})
    await change
    for host in hosts:
        await host.in_line()
        assert host.controller.networks.find("net").labels == {"a": "1", "b": "1"}


async def test_publication_keeps_a_limit_that_came_during_it(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = hosts
    (endpoint,) = one.controller._context.records.endpoints()
    bind = Endpoints._bind

    async def late(self: Endpoints, *arguments: object) -> tuple[BoundPort, ...]:
        known = two.controller._context.records.endpoint(endpoint.id)
        assert known
        await two.controller.endpoint_updates.limit(known, LIMITS)
        cluster = one.controller._context.cluster
        assert cluster
        await until(lambda: (shared := cluster.view.endpoint(endpoint.id)) and shared.endpoint.bandwidth == LIMITS)
        return await bind(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Endpoints, "_bind", late)
    await one.controller.sandboxes.publish(endpoint.id, [mapping(8080)])
    for host in hosts:
        await host.in_line()
        known = host.controller._context.records.endpoint(endpoint.id)
        assert known
        assert known.bandwidth == LIMITS


async def test_deletion_by_a_host_that_lags_leaves_no_claim(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "CATCH_UP", 0.01)
    one, two = hosts
    await one.controller.removal.endpoint("net", "web")
    await two.in_line()
    two.shared.delivers.clear()
    await add_subnet(one, "net")
    with pytest.raises(Error) as refused:
        await two.controller.removal.network("net")
    assert refused.value.code == "changed_elsewhere"
    two.shared.delivers.set()
    await two.in_line()
    await two.controller.removal.network("net")
    await one.network("other")
    await add_subnet(one, "other")


@pytest.mark.parametrize("what", ["network", "endpoint", "limit"])
async def test_change_is_repeated_once_this_host_knows_the_other_one(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    one, two = hosts
    records = two.controller._context.records
    (endpoint,) = records.endpoints()
    if what == "network":
        await one.controller.removal.endpoint("net", "web")
        await two.in_line()
    catch_up = records.catch_up
    refusals = 0

    async def learns() -> None:
        nonlocal refusals
        refusals += 1
        two.shared.delivers.set()
        await catch_up()

    monkeypatch.setattr(records, "catch_up", learns)
    two.shared.delivers.clear()
    if what == "network":
        await label(one, "a")
        await two.controller.removal.network("net")
    else:
        await one.controller.endpoint_updates.limit(endpoint, Bandwidth(ingress_rate=2_000_000))
        if what == "endpoint":
            await two.controller.removal.endpoint("net", "web")
        else:
            await two.controller.endpoint_updates.limit(endpoint, LIMITS)
    two.shared.delivers.set()
    for host in hosts:
        await host.in_line()
        kept = host.controller._context.records.endpoints()
        assert [each.bandwidth for each in kept] == ([LIMITS] if what == "limit" else [])
    assert refusals == 1 or what == "endpoint"


async def test_deletion_is_refused_when_an_absent_host_came_back(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint could not be deleted as one that counts nowhere, and the network stayed on all hosts."""
    monkeypatch.setattr(follower, "CATCH_UP", 0.01)
    one, two = hosts
    await one.controller.removal.endpoint("net", "web")
    await one.endpoint("job", owner="cni/x/eth0")
    await two.in_line()
    one.shared.cut_off()
    one.end_lease()
    await until(lambda: two.names() == [])
    two.shared.delivers.clear()
    one.shared.reconnect()
    await until(lambda: one.joined)
    await one.in_line()
    with pytest.raises(Error) as refused:
        await two.controller.removal.network("net")
    assert refused.value.kind is Kind.UNAVAILABLE
    two.shared.delivers.set()
    for host in hosts:
        await host.in_line()
        assert host.names() == ["job"]


async def test_repeated_deletion_of_what_is_gone_by_then_succeeds(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hosts
    await one.controller.removal.endpoint("net", "web")
    await two.in_line()
    two.shared.delivers.clear()
    await label(one, "a")
    catch_up = two.controller._context.records.catch_up

    async def too_late() -> None:
        await one.controller.removal.network("net")
        two.shared.delivers.set()
        await catch_up()
        await two.in_line()

    monkeypatch.setattr(two.controller._context.records, "catch_up", too_late)
    await two.controller.removal.network("net")
    assert not two.controller.networks.list(name="net")


async def test_container_that_comes_back_claims_its_new_address(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its former attachment could not be released: it was written again, with the claims of its former address."""
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 30.0)  # nothing releases it before the next join
    one, _ = hosts
    for container in ("c1", "c2"):
        await one.join(container, "web", many=True)
    one.shared.cut_off()
    await one.leave("c2", "web")
    await one.in_line()
    one.shared.reconnect()
    await one.join("c2", "web", many=True)
    assert claim_faults(one.cluster.contents.list("")) == []


@pytest.mark.parametrize("method", ["links.retire", "namespaces.release"])
async def test_ports_of_a_removal_that_failed_are_free(hosts: Hosts, method: str) -> None:
    """Other hosts still had the endpoint, so it was kept; its ports stayed open, and no record named them."""
    one, _ = hosts
    await one.endpoint("db", port_mapping=(mapping(8080),))
    await one.join("c1", "db")
    one.kernel.fail_on(method, Error(Kind.INTERNAL, "broken on purpose"))
    with pytest.raises(Error, match="incomplete"):
        await one.controller.removal.endpoint("net", "db", force=True)
    await one.in_line()
    await one.controller.removal.endpoint("net", "db", force=True)
    assert not one.kernel.host.held
    assert await one.controller.reconcile.run(fix=False) == []


async def test_limit_of_another_host_is_applied_when_that_failed(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record had the limit by the next attempt, so nothing showed that the kernel had not."""
    one, two = hosts
    await two.join("c1", "web")
    await two.in_line()
    apply, failures = EndpointUpdates.apply, list[str]()

    async def once_refused(self: EndpointUpdates, endpoint_id: str) -> None:
        if not failures:
            failures.append(endpoint_id)
            raise Error(Kind.UNAVAILABLE, "the kernel is busy")
        await apply(self, endpoint_id)

    monkeypatch.setattr(EndpointUpdates, "apply", once_refused)
    (endpoint,) = one.controller._context.records.endpoints()
    await one.controller.endpoint_updates.limit(endpoint, LIMITS)
    await until(lambda: failures)
    following = two.controller._follower
    assert following
    await until(lambda: not following.problems)
    assert await two.controller.reconcile.run(fix=False) == []


async def test_endpoint_made_before_its_network_is_recorded_is_found(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has the network before its own host has recorded it, and other hosts use it at once."""
    one, two = hosts
    commit, recorded = one.store.commit, asyncio.Event()

    async def slow(*changes: Change, durable: bool = True) -> int:
        if any(isinstance(each, Put) and b'"blue"' in each.value and b'"ready"' in each.value for each in changes):
            await recorded.wait()
        return await commit(*changes, durable=durable)

    monkeypatch.setattr(one.store, "commit", slow)
    making = asyncio.create_task(one.network("blue"))
    await until(lambda: "blue" in [network.name for network in two.controller.networks.list()])
    endpoint = await two.endpoint("late", "blue")
    cluster = one.controller._context.cluster
    await until(lambda: cluster and cluster.view.endpoint(endpoint))
    recorded.set()
    await making
    await one.in_line()
    assert one.names("blue") == ["late"]
