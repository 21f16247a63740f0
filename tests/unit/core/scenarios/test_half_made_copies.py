"""A copy of a network of all hosts that is half made: nothing of it concerns other hosts, and it is made again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.core.state.schema import ENDPOINTS, NETWORKS
from sandnet.errors import Error, Kind
from sandnet.stores.base import Put
from tests.support.conditions import until
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
BROKEN = Error(Kind.INTERNAL, "broken on purpose")


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts."""
    async with several_hosts(tmp_path) as found:
        yield found


async def interrupt(host: HostInProcess, object_id: str, phase: str) -> None:
    """Let a stopped host's record of a network or an endpoint be in a phase, as after a kill in the middle."""
    records = [each for prefix in (NETWORKS, ENDPOINTS) for each in await host.store.list(prefix)]
    (entry,) = (each for each in records if each.key.endswith(f"/{object_id}"))
    record = json.loads(entry.value) | {"phase": phase}
    await host.store.commit(Put(entry.key, json.dumps(record).encode()))


@pytest.mark.parametrize("endpoints", [(), ("web",)])
async def test_killed_host_makes_its_copy_again_and_spares_others(hosts: Hosts, endpoints: tuple[str, ...]) -> None:
    one, two = hosts
    network = await one.network()
    await two.in_line()
    await two.stop()
    for name in endpoints:
        await one.endpoint(name)
    await interrupt(two, network, "creating")
    await two.start()
    await two.in_line()
    for host in hosts:
        assert host.controller.networks.find("net").phase == "ready"
        assert host.names() == list(endpoints)


async def test_killed_host_removes_no_endpoint_of_another(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    job = await one.endpoint("job", owner="cni/x/eth0")
    await two.in_line()
    await two.stop()
    await interrupt(two, job, "removing")
    await two.start()
    await two.in_line()
    assert one.names() == two.names() == ["job"]


async def test_killed_host_finishes_the_removal_of_its_own(hosts: Hosts) -> None:
    one, two = hosts
    await one.network()
    job = await one.endpoint("job", owner="cni/x/eth0")
    await two.in_line()
    await one.stop()
    await interrupt(one, job, "removing")
    await one.start()
    await two.in_line()
    assert one.names() == two.names() == []


async def test_copy_is_made_again_though_its_removal_was_refused(hosts: Hosts) -> None:
    one, two = hosts
    two.kernel.fail_on("vxlan.ensure", BROKEN)
    two.kernel.fail_on("links.delete", BROKEN)
    await one.network()
    await until(lambda: "net" in [net.name for net in two.controller.networks.list()])
    assert not two.leftovers()
    assert one.controller.networks.find("net").phase == "ready"
    assert {"vxlan.ensure", "links.delete"} <= set(two.kernel.calls)
