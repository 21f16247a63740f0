"""Hosts whose lease ends while their daemon goes on: they claim again what they have, whatever their requests meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.cluster import host_membership
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.replication import follower
from sandnet.errors import Error
from sandnet.stores.memory_shared import WriteFault
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
BEFORE_AN_AUDIT = 10.0
"""Seconds in which no audit finds what was not claimed."""


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hosts]:
    """Two hosts with the network ``net``; ``c1`` of the first one answers for ``web``."""
    monkeypatch.setattr(host_membership, "RETRY", (0.01, 0.1))
    monkeypatch.setattr(follower, "AUDIT", 3600.0)
    async with several_hosts(tmp_path) as found:
        await found[0].network()
        await found[0].endpoint("web")
        await found[0].join("c1", "web")
        await found[1].in_line()
        yield found


@pytest.mark.parametrize("fault", [*WriteFault, None])
async def test_containers_are_claimed_again_after_an_ended_lease(hosts: Hosts, fault: WriteFault | None) -> None:
    one, two = hosts
    endpoint = one.attachments()[0].endpoint_id
    assert two.elsewhere(endpoint) == [("h1", "c1")]
    one.shared.faults.extend([fault] if fault else [])
    one.end_lease()
    await until(lambda: not one.shared.faults and one.joined, BEFORE_AN_AUDIT)
    one.cluster.deliver()
    await two.in_line()
    await until(lambda: two.elsewhere(endpoint) == [("h1", "c1")], BEFORE_AN_AUDIT)
    assert one.joined


@pytest.mark.parametrize("fault", list(WriteFault))
async def test_daemon_without_a_first_answer_claims_again(hosts: Hosts, fault: WriteFault) -> None:
    one, two = hosts
    endpoint = one.attachments()[0].endpoint_id
    await one.stop()
    one.end_lease()
    await two.in_line()
    one.first_faults = [fault]
    await one.start()
    await until(lambda: one.joined, BEFORE_AN_AUDIT)
    await until(lambda: two.elsewhere(endpoint) == [("h1", "c1")], BEFORE_AN_AUDIT)


async def test_containers_are_claimed_again_in_a_restored_store(hosts: Hosts) -> None:
    """The backup has an earlier fencing number. So the new lease has the number of the last one."""
    one, two = hosts
    endpoint = one.attachments()[0].endpoint_id
    one.end_lease()
    backup = one.cluster.contents.snapshot("")
    await until(lambda: one.joined and two.elsewhere(endpoint) == [("h1", "c1")], BEFORE_AN_AUDIT)
    reachable = asyncio.Event()

    async def until_reachable() -> None:
        await reachable.wait()

    one.pace = until_reachable
    one.end_lease()
    one.cluster.restore(backup)
    await until(lambda: two.elsewhere(endpoint) == [], BEFORE_AN_AUDIT)
    await one.in_line()  # as far as a host without a lease can be
    reachable.set()
    await until(lambda: two.elsewhere(endpoint) == [("h1", "c1")], BEFORE_AN_AUDIT)


async def test_late_removal_of_a_copy_spares_an_endpoint_that_is_back(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hosts
    job = await one.endpoint("job", owner="cni/x/eth0")
    await two.in_line()
    begun, goes_on = asyncio.Event(), asyncio.Event()
    remove = Deletion.endpoint_within

    async def remove_late(self: Deletion, endpoint_id: str, *, force: bool = False) -> None:
        begun.set()
        await goes_on.wait()
        await remove(self, endpoint_id, force=force)

    monkeypatch.setattr(Deletion, "endpoint_within", remove_late)
    one.shared.cut_off()
    one.end_lease()
    await begun.wait()
    one.shared.reconnect()
    await until(lambda: two.counts(job), BEFORE_AN_AUDIT)
    goes_on.set()
    await two.in_line()
    await one.in_line()
    assert one.names() == two.names() == ["job", "web"]


async def test_refused_network_leaves_nothing_once_it_can_be_removed(hosts: Hosts) -> None:
    one, _ = hosts
    await one.stop()
    await one.start(connected=False)
    with pytest.raises(Error):
        await one.network("late")
    one.shared.reconnect()
    await until(lambda: one.joined, BEFORE_AN_AUDIT)
    await until(lambda: not one.leftovers(), BEFORE_AN_AUDIT)
