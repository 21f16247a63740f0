"""Hosts of several releases: a newer format of records is written only when all hosts read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.cluster import host_membership
from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.record_format import FORMAT, raising
from sandnet.core.cluster.shared_values import HOSTS
from sandnet.core.replication import follower
from sandnet.core.state.schema import NETWORKS
from sandnet.errors import Error
from sandnet.stores.base import Delete, Put
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hosts]:
    """Three hosts of a release that reads the first format only; it can be given others."""
    monkeypatch.setattr(host_membership, "RETRY", (0.02, 0.1))
    monkeypatch.setattr(follower, "FIRST_ANSWER", 0.1)
    async with several_hosts(tmp_path, 3, (1,)) as found:
        yield found


async def restart(host: HostInProcess, *formats: int) -> None:
    """Install a release that reads these formats."""
    await host.stop()
    host.formats = formats
    await host.start()


def membership(host: HostInProcess) -> HostMembership:
    cluster = host.controller._context.cluster
    assert cluster
    return cluster.membership


def formats(host: HostInProcess) -> list[bool]:
    """Of each network in the store, in the order of their creation: whether it is in the second format."""
    found = sorted(host.cluster.contents.list(NETWORKS), key=lambda entry: entry.revision)
    return [entry.value.startswith(b'{"format":2,') for entry in found]


async def look(*hosts: HostInProcess) -> None:
    """Let hosts look at their leases, and at what the others read."""
    for host in hosts:
        await host.in_line()
        host.wake()


async def agreed(hosts: Hosts) -> None:
    """Wait until the store has the second format, and all hosts know that."""
    await look(*hosts)
    entry = hosts[0].cluster.contents.get
    await until(lambda: (found := entry(FORMAT)) and found.value == b"2")
    for host in hosts:
        await host.in_line()


async def test_newer_format_is_withheld_until_the_last_host_reads_it(hosts: Hosts) -> None:
    one, two, three = hosts
    await restart(one, 1, 2)
    await restart(two, 1, 2)
    await look(*hosts)
    await one.network("early")
    assert formats(one) == [False]
    await three.in_line()
    assert [net.name for net in three.controller.networks.list()][-1] == "early"
    await restart(three, 1, 2)
    await agreed(hosts)
    await two.network("late")
    assert formats(one) == [False, True]
    await three.in_line()
    assert not three.controller.health().problems


async def test_absent_host_withholds_it_until_it_is_removed(hosts: Hosts) -> None:
    one, two, three = hosts
    await three.stop()
    three.end_lease()
    await restart(one, 1, 2)
    await restart(two, 1, 2)
    await look(one, two)
    await one.network("early")
    assert formats(one) == [False]
    await one.controller.remove_node("h3")
    await agreed([one, two])
    await three.start()


async def test_host_that_cannot_read_it_does_not_join(hosts: Hosts) -> None:
    one, _, three = hosts
    for host in hosts:
        await restart(host, 1, 2)
    await agreed(hosts)
    await one.network("net")
    await three.in_line()
    await restart(three, 1)
    await until(lambda: "upgrade this host" in "".join(three.controller.health().problems))
    assert "net" in [net.name for net in three.controller.networks.list()]
    with pytest.raises(Error) as refused:
        await three.network("other")
    assert refused.value.code == "store_format"
    await restart(three, 1, 2)
    await three.network("other")


async def test_unreadable_host_record_withholds_it(hosts: Hosts) -> None:
    one, two, three = hosts
    await one.shared.commit(Put(f"{HOSTS}h9", b"nonsense"))
    for host in hosts:
        await restart(host, 1, 2)
    await look(*hosts)
    await one.network("net")
    assert formats(one) == [False]
    await one.shared.commit(Delete(f"{HOSTS}h9"))
    await agreed([one, two, three])


async def test_host_that_joins_at_that_moment_withholds_it(hosts: Hosts) -> None:
    """The host that raises the format does not know of it yet."""
    one, two, three = hosts
    await three.stop()
    three.end_lease()
    await one.controller.remove_node("h3")
    await two.stop()
    two.end_lease()
    await one.controller.remove_node("h2")
    joined = asyncio.Event()

    async def join_before_the_number_is_raised() -> None:
        view = membership(one)._view
        if raising(view, (1, 2)) and not joined.is_set():
            joined.set()
            await three.start()

    await one.stop()
    one.formats, one.pace = (1, 2), join_before_the_number_is_raised
    await one.start()
    await look(one)
    await joined.wait()
    await look(one)
    await one.network("net")
    assert formats(one) == [False]
    await three.in_line()
    assert not three.controller.health().problems
    await restart(three, 1, 2)
    await agreed([one, three])
    await two.start()
