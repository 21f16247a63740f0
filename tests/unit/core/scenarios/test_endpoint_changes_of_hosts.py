"""What becomes of changes of an endpoint that all hosts share: made on any host, and over an older state of its own."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Endpoint, Network, NetworkSpec
from sandnet.model.interfaces.bandwidth import Bandwidth
from sandnet.stores.memory import MemoryStore
from tests.support.conditions import until
from tests.support.core_in_process import mapping
from tests.support.hosts_in_process import DRIVER, HostInProcess, at_once, several_hosts
from tests.support.store_truth import duplicates

Hosts = list[HostInProcess]
LIMITS = Bandwidth(egress_rate=1_000_000)
RED, RED_DB = "1" * 64, "2" * 64
"""Ids of a network and of its endpoint that are known before they are created."""


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with the endpoint ``web``, which the first one has created."""
    async with several_hosts(tmp_path) as found:
        await found[0].network()
        await found[0].endpoint("web")
        await found[1].in_line()
        yield found


def web(host: HostInProcess) -> Endpoint:
    """The endpoint, as a host has it."""
    (endpoint,) = host.controller.endpoints.list(host.controller.networks.find("net"))
    return endpoint


@pytest.mark.parametrize("changing", [0, 1])
async def test_change_of_any_host_is_seen_on_all(hosts: Hosts, changing: int) -> None:
    """What another host than its creator changed was lost with the next change of the endpoint."""
    await hosts[changing].controller.endpoint_updates.limit(web(hosts[changing]), LIMITS)
    for host in hosts:
        await host.in_line()
        assert web(host).bandwidth == LIMITS


@pytest.mark.parametrize("joined", [0, 1])
async def test_change_of_another_host_limits_a_running_container(hosts: Hosts, joined: int) -> None:
    await hosts[joined].join("c1", "web")
    await hosts[1 - joined].controller.endpoint_updates.limit(web(hosts[1 - joined]), LIMITS)
    limits = hosts[joined].kernel.limits
    await until(lambda: any(each.ingress or each.egress for each in limits.list().values()))


async def test_change_keeps_the_owner_of_another_host(hosts: Hosts) -> None:
    one, two = hosts
    job = await one.endpoint("job", owner="cni/x/eth0")
    await two.in_line()
    known = two.controller._context.records.endpoint(job)
    assert known
    await two.controller.endpoint_updates.limit(known, LIMITS)
    await one.in_line()
    found = one.controller._context.records.endpoint(job)
    assert found
    assert (found.owner, found.bandwidth) == ("cni/x/eth0", LIMITS)
    one.shared.cut_off()
    one.end_lease()
    await until(lambda: two.names() == ["web"])
    one.shared.reconnect()


async def test_older_state_does_not_undo_a_change(hosts: Hosts) -> None:
    """The host that came back with it wrote its own endpoints over what the store had."""
    one, two = hosts
    older = MemoryStore()
    older._contents = one.store._contents
    one.store._contents = copy.deepcopy(older._contents)
    await one.controller.endpoint_updates.limit(web(one), LIMITS)
    await one.stop()
    one.store = older
    await one.start()
    await one.in_line()
    await two.in_line()
    assert web(one).bandwidth == web(two).bandwidth == LIMITS


async def test_answer_later_than_a_deletion_brings_nothing_back(hosts: Hosts) -> None:
    """The host's change was applied, then another host deleted the endpoint, and only then the answer arrived."""
    one, two = hosts
    changed = web(two)
    passed = 0

    async def delay_the_answer() -> None:
        nonlocal passed
        passed += 1
        if passed == len(["request", "answer"]):
            await one.in_line()
            await one.controller.removal.endpoint("net", "web")
            await until(lambda: two.controller._context.cluster.view.endpoint(changed.id) is None)  # type: ignore[union-attr]

    two.pace = delay_the_answer
    await two.controller.endpoint_updates.limit(changed, LIMITS)
    two.pace = at_once
    await one.network("later")
    await two.in_line()
    await until(lambda: not two.controller._context.records.endpoints())


async def join_in_red(host: HostInProcess) -> None:
    """Create another network, its endpoint ``db``, and join it."""
    await host.controller.networks.create(NetworkSpec(name="red", driver=DRIVER, id=RED))
    await host.endpoint("db", "red", id=RED_DB)
    await host.join("c1", "db", "red")


async def test_peers_of_an_endpoint_that_was_never_copied_are_removed(hosts: Hosts) -> None:
    """Its network was made with all peers of that moment, and it was deleted before its own turn."""
    one, two = hosts
    locks, view = two.controller._context.locks, two.controller._context.cluster.view  # type: ignore[union-attr]
    async with locks.hold(f"endpoint/{RED_DB}"):
        async with locks.hold(f"network/{RED}"):
            await join_in_red(one)
            await until(lambda: view.attachments(RED_DB))
        await until(lambda: two.peers().get(RED))
        await one.leave("c1", "db", "red")
        await one.controller.removal.endpoint("red", "db")
        await until(lambda: view.endpoint(RED_DB) is None)
    await two.in_line()
    assert two.peers()[RED] == set()


@pytest.mark.parametrize("call", ["set_peers", "change_peers"])
async def test_endpoint_deleted_while_the_driver_gets_peers(
    hosts: Hosts, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deletion looked for a network whose driver has its peers, and found none while one was given them."""
    one, two = hosts
    locks, view = two.controller._context.locks, two.controller._context.cluster.view  # type: ignore[union-attr]
    driver = two.controller._context.drivers[DRIVER]
    give, given, may_return = getattr(driver, call), asyncio.Event(), asyncio.Event()

    async def give_slowly(net: Network, *peers: Sequence[object]) -> object:
        found = await give(net, *peers)
        if net.id == RED:
            given.set()
            await may_return.wait()
        return found

    async with locks.hold(f"endpoint/{RED_DB}"):
        async with locks.hold(f"network/{RED}"):
            await join_in_red(one)
            await until(lambda: view.attachments(RED_DB))
            monkeypatch.setattr(driver, call, give_slowly)
        await until(lambda: two.peers().get(RED))
        await one.endpoint("other", "red")
        await one.join("c2", "other", "red")
        await given.wait()
        await one.leave("c1", "db", "red")
        await one.controller.removal.endpoint("red", "db")
        await until(lambda: view.endpoint(RED_DB) is None)
    await until(lambda: not two.locks(f"endpoint/{RED_DB}"))
    may_return.set()
    await two.in_line()
    assert len(two.peers()[RED]) == len(["other"])


class TestDeletionWhileAnotherHostUsesIt:
    """``web`` has a container on each of two hosts."""

    @pytest.fixture
    async def service(self, hosts: Hosts) -> str:
        one, two = hosts
        await one.controller.sandboxes.publish(web(one).id, [mapping(8080)])
        await one.join("c1", "web", many=True)
        await two.join("c2", "web", many=True)
        for host in hosts:
            await host.in_line()
        return web(one).id

    @pytest.mark.parametrize("what", ["endpoint", "network"])
    async def test_forced_deletion_is_refused_and_detaches_nothing(self, hosts: Hosts, service: str, what: str) -> None:
        one, _ = hosts
        removal = one.controller.removal
        deletion = (
            removal.network("net", force=True) if what == "network" else removal.endpoint("net", "web", force=True)
        )
        with pytest.raises(Error, match="c2 on host h2") as refused:
            await deletion
        assert refused.value.kind is Kind.IN_USE
        assert [each.container_id for each in one.attachments()] == ["c1"]

    async def test_endpoint_is_usable_after_its_deletion_was_refused(self, hosts: Hosts, service: str) -> None:
        """It was not known here that another host uses it; it stayed half deleted until the daemon was restarted."""
        one, _ = hosts
        with pytest.raises(Error, match="c2 on host h2"):
            await one.controller.removal.endpoint_within(service, force=True)
        await one.in_line()
        await until(lambda: one.names() == ["web"])
        await until(lambda: sorted(port for _, _, port in one.kernel.host.held) == [8080])
        await one.join("c3", "web", many=True)
        assert not await one.controller.reconcile.run(fix=False)
        assert not one.controller.health().problems

    async def test_network_is_usable_after_its_deletion_was_refused(
        self, hosts: Hosts, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was not known here that another host uses it. Its bridge was deleted in the background, after the join."""
        one, _ = hosts
        reaper = cast(OverlayDriver, one.controller._context.drivers[DRIVER])._segment._reaper  # type: ignore[attr-defined]
        monkeypatch.setattr(reaper._batches, "_pause", 0.3)
        network = one.controller.networks.find("net")
        with pytest.raises(Error, match="c2 on host h2") as refused:
            await one.controller.removal.network_within(network.id, force=True)
        assert (refused.value.kind, refused.value.code) == (Kind.IN_USE, "endpoint_in_use")
        await one.in_line()
        await until(lambda: one.names() == ["web"])
        await one.join("c3", "web", many=True)
        await reaper.wait()
        assert not await one.controller.reconcile.run(fix=False)

    async def test_half_deleted_endpoint_goes_with_the_other_hosts(self, hosts: Hosts, service: str) -> None:
        one, two = hosts
        with pytest.raises(Error, match="c2 on host h2"):
            await one.controller.removal.endpoint_within(service, force=True)
        await two.leave("c2", "web")
        await two.in_line()
        await two.controller.removal.endpoint("net", "web")
        await until(lambda: not one.controller._context.records.endpoints())


async def test_release_prepared_before_the_claim_is_refused(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the claim was lost; the release left a holder without attachment."""
    one, two = hosts
    endpoint = web(one).id
    await one.join("c1", "web", many=True)
    await two.join("c2", "web", many=True)
    cluster = two.controller._context.cluster
    assert cluster
    (before,) = [held for held in cluster.view.attachments(endpoint) if held.key.host == "h2"]
    holder = cluster.view.holder(endpoint)
    await one.leave("c1", "web")
    await until(lambda: two.holds("c2", endpoint))
    with monkeypatch.context() as patch:
        patch.setattr(cluster.view, "holder", lambda _: holder)
        with pytest.raises(Error, match="changed by another host"):
            await cluster.shared.attachments.release([before])
    assert not duplicates(two.cluster.contents.list(""))


class TestEndOfOwner:
    """``job`` ends with its owner on the first host, and has a container on each of two others."""

    @pytest.fixture
    async def three(self, tmp_path: Path) -> AsyncIterator[Hosts]:
        async with several_hosts(tmp_path, 3) as hosts:
            one, two, three = hosts
            await one.network()
            await one.endpoint("job", owner="cni/x/eth0")
            for host in (two, three):
                await host.in_line()
                await host.join(f"c-{host.name}", "job", many=True)
            for host in hosts:
                await host.in_line()
            yield hosts

    @staticmethod
    def nothing_is_left(hosts: Hosts) -> bool:
        entries = [key for key in ("endpoint/", "attached/") if hosts[0].cluster.contents.list(key)]
        return not entries and not any(host.names() or host.attachments() for host in hosts)

    async def test_every_host_detaches_its_containers(self, three: Hosts) -> None:
        one = three[0]
        with pytest.raises(Error, match="on host h2"):
            await one.controller.removal.endpoint_within(one.controller._context.records.endpoints()[0].id, force=True)
        await until(lambda: self.nothing_is_left(three))

    async def test_owner_that_ended_with_its_host_counts_no_more(self, three: Hosts) -> None:
        one = three[0]
        await one.stop()
        one.lose_state()
        await one.start()
        await until(lambda: self.nothing_is_left(three))
