"""An endpoint that is on another host by now: its MAC is that of a container here, and then of a peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.replication import peer_replicas, work_queue
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.errors import Error, Kind
from sandnet.model import Network
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts; ``c1`` of the first one has ``web``, and ``c2`` of the second one has taken it over since."""
    async with several_hosts(tmp_path) as found:
        one, two = found
        await one.network()
        await one.endpoint("web")
        await one.join("c1", "web")
        await two.in_line()
        one.shared.cut_off()
        one.end_lease()
        await two.in_line()
        await two.join("c2", "web")
        yield found


@pytest.mark.parametrize("restarted", [False, True])
async def test_peer_with_the_mac_of_a_lost_container_stays(hosts: Hosts, restarted: bool) -> None:
    one, two = hosts
    (attachment,) = two.attachments()
    if restarted:
        await one.stop()
        await one.start()
    else:
        one.shared.reconnect()
    await until(lambda: not one.attachments())
    await one.in_line()
    assert one.peers() == {attachment.network_id: {attachment.mac}}


async def test_peer_stays_though_a_lost_container_was_repaired_before(hosts: Hosts) -> None:
    one, two = hosts
    (attachment,) = two.attachments()
    (lost,) = one.attachments()
    async with one.controller._context.locks.hold("sandbox/c1"):
        one.shared.reconnect()
        await until(lambda: one.peers() == {attachment.network_id: {attachment.mac}})
        await one.repair(lost)
        assert one.peers() == {attachment.network_id: set()}
    await until(lambda: not one.attachments())
    await one.in_line()
    assert one.peers() == {attachment.network_id: {attachment.mac}}


async def test_late_removal_spares_the_peer_that_has_the_mac_now(hosts: Hosts) -> None:
    one, two = hosts
    one.shared.reconnect()
    await until(lambda: not one.attachments())
    await one.in_line()
    (attachment,) = two.attachments()
    await one.give_peers(attachment, "next")
    await one.give_peers(None, attachment.endpoint_id)
    assert one.peers() == {attachment.network_id: {attachment.mac}}
    await one.give_peers(None, "next")
    assert one.peers() == {attachment.network_id: set()}


async def test_audit_gives_peers_again_that_were_lost(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    one, two = hosts
    one.shared.reconnect()
    await until(lambda: not one.attachments())
    await one.in_line()
    before = one.peers()
    (attachment,) = two.attachments()
    caplog.clear()
    await one.audit()
    await one.in_line()
    assert not caplog.messages
    await one.lose_peer(attachment)
    assert one.peers() == {attachment.network_id: set()}
    await one.audit()
    assert one.peers() == before
    assert caplog.messages == ["network net: its peers are not those of the store: they are given again"]


async def test_audit_goes_on_after_an_unexpected_failure(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hosts
    one.shared.reconnect()
    await until(lambda: not one.attachments())
    await one.in_line()
    before = one.peers()
    (attachment,) = two.attachments()
    await one.lose_peer(attachment)
    with monkeypatch.context() as patch:
        patch.setattr(OverlayDriver, "has_peers", lambda *_: 1 / 0)
        await one.audit()
    assert "the peers of a network were not compared: division by zero" in caplog.messages
    await one.in_line()
    await one.audit()
    assert one.peers() == before


async def test_audit_leaves_alone_what_comes_while_it_compares(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change waits for the audit to end, so the store is ahead of the kernel, and nothing is wrong."""
    monkeypatch.setattr(peer_replicas, "SLICE", 1)
    async with several_hosts(tmp_path) as (one, two):
        await two.network()
        for name in ("web", "db"):
            await two.endpoint(name)
        await two.join("c1", "web")
        await one.in_line()
        (network,) = one.controller.networks.list(name="net")
        cluster = one.controller._context.cluster
        assert cluster
        sleep, pauses = asyncio.sleep, 0

        async def joined_in_between(delay: float) -> None:
            nonlocal pauses
            pauses += delay == 0
            if delay == 0 and pauses == 1:
                revision = cluster.view.revision
                await two.join("c2", "db")
                await until(lambda: cluster.view.revision > revision)
            await sleep(delay)

        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", joined_in_between)
            await one.audit()
        assert pauses
        assert not caplog.messages
        await one.in_line()
        assert len(one.peers()[network.id]) == 2


async def test_audit_gives_peers_that_an_attempt_left_uncertain(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change of a deleted endpoint failed, and the second attempt failed after it had forgotten the endpoint."""
    one, two = hosts
    one.shared.reconnect()
    await until(lambda: not one.attachments())
    await one.in_line()
    failures: list[str] = []

    async def refused(self: OverlayDriver, net: Network, *_: object) -> None:
        failures.append(net.name)
        raise Error(Kind.INTERNAL, "broken on purpose")

    follower = one.controller._follower
    assert follower
    with monkeypatch.context() as patch:
        patch.setattr(work_queue, "FIRST_DELAY", 0.01)
        patch.setattr(OverlayDriver, "change_peers", refused)
        patch.setattr(OverlayDriver, "set_peers", refused)
        await two.controller.removal.endpoint("net", "web", force=True)
        await until(lambda: len(failures) >= 2)
        await until(lambda: not follower.problems)
    await one.audit()
    assert set().union(*one.peers().values()) == set()
