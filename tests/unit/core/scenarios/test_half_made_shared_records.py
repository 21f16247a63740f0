"""Changes of what all hosts share that fail on a full disk: no host keeps a half, once there is room again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandnet.errors import Error
from sandnet.model import BoundPort, Endpoint, Network
from tests.support.core_in_process import MoodyStore, mapping
from tests.support.hosts_in_process import HostInProcess, several_hosts

Hosts = list[HostInProcess]
COMMITS = 4
"""More than any of the changes has."""


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """Two hosts with two networks, and endpoints with and without a port; the store of the first one can be full."""
    async with several_hosts(tmp_path) as found:
        one, two = found
        await one.stop()
        one.lose_state()
        one.store = MoodyStore()
        await one.start()
        for name in ("net", "spare"):
            await one.network(name)
        await one.endpoint("old", port_mapping=(mapping(8081),))
        await one.endpoint("plain")
        await two.in_line()
        yield found


async def create_endpoint(host: HostInProcess) -> object:
    return await host.endpoint("web", port_mapping=(mapping(8080),))


async def create_plain_endpoint(host: HostInProcess) -> object:
    return await host.endpoint("bare")


async def create_network(host: HostInProcess) -> object:
    return await host.network("new")


async def delete_endpoint(host: HostInProcess) -> None:
    await host.controller.removal.endpoint("net", "old")


async def delete_plain_endpoint(host: HostInProcess) -> None:
    await host.controller.removal.endpoint("net", "plain")


async def delete_network(host: HostInProcess) -> None:
    await host.controller.removal.network("spare")


def id_of(host: HostInProcess, endpoint: str) -> str:
    (found,) = host.controller._context.records.endpoints_named(endpoint)
    return found.id


async def publish_port(host: HostInProcess) -> None:
    await host.controller.sandboxes.publish(id_of(host, "plain"), [mapping(8082)])


async def withdraw_port(host: HostInProcess) -> None:
    await host.controller.sandboxes.unpublish(id_of(host, "old"))


CHANGES = [
    create_endpoint,
    create_plain_endpoint,
    create_network,
    delete_endpoint,
    delete_plain_endpoint,
    delete_network,
    publish_port,
    withdraw_port,
]


def state(host: HostInProcess) -> list[tuple[str, str]]:
    """The names and phases of all networks and endpoints of a host."""
    records = host.controller._context.records
    found: list[Network | Endpoint] = [*records.networks(), *records.endpoints()]
    return sorted((each.name, each.phase.value) for each in found)


def shared_ports(host: HostInProcess, endpoint_id: str) -> tuple[BoundPort, ...]:
    """The ports of an endpoint as a host sees them in the shared store."""
    cluster = host.controller._context.cluster
    shared = cluster.view.endpoint(endpoint_id) if cluster else None
    assert shared
    return shared.ports


async def collect(hosts: Hosts) -> None:
    """Let two collections pass on the first host, and what follows from them on all."""
    for _ in range(2):
        await hosts[0].controller._garbage.collect()
    for host in hosts:
        await host.in_line()


def assert_agreed(hosts: Hosts) -> None:
    """Require that nothing is half-way, and that all hosts have the same; with their ports, which they also hold."""
    one, two = hosts
    assert state(one) == state(two)
    assert {phase for _, phase in state(one)} == {"ready"}
    endpoints = one.controller._context.records.endpoints()
    ports = [port.host_port for each in endpoints for port in each.ports]
    assert sorted(port for _, _, port in one.kernel.host.held) == sorted(ports)
    for each in endpoints:
        assert shared_ports(two, each.id) == each.ports
    assert (one.controller.health().problems, two.controller.health().problems) == ((), ())


def limit(host: HostInProcess, room: int | None) -> None:
    """Let the disk of a host have room for some more commits; ``None``: for any number."""
    assert isinstance(host.store, MoodyStore)
    host.store.room = room


@pytest.mark.parametrize("room", range(COMMITS))
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_hosts_agree_after_a_change_on_a_full_disk(
    hosts: Hosts, change: Callable[[HostInProcess], Awaitable[object]], room: int
) -> None:
    one, _ = hosts
    limit(one, room)
    refused = False
    try:
        await change(one)
    except Error:
        refused = True
    limit(one, None)
    await collect(hosts)
    assert_agreed(hosts)
    if refused and change is create_endpoint:
        assert not [name for name, _ in state(one) if name == "web"]
    if change in (publish_port, withdraw_port):
        published = {port for _, _, port in one.kernel.host.held}
        was_done = 8082 in published if change is publish_port else 8081 not in published
        assert was_done is not refused


@pytest.mark.parametrize("change", [create_endpoint, create_network], ids=lambda change: change.__name__)
async def test_refused_creation_on_a_full_disk_leaves_nothing(
    hosts: Hosts, change: Callable[[HostInProcess], Awaitable[object]]
) -> None:
    """The shared store is away, so no other host ever saw it."""
    one, _ = hosts
    before = state(one)
    limit(one, 1)
    one.shared.cut_off()
    with pytest.raises(Error):
        await change(one)
    assert "creating" in {phase for _, phase in state(one)}
    one.shared.reconnect()
    limit(one, None)
    await collect(hosts)
    assert_agreed(hosts)
    assert state(one) == before


async def test_half_made_endpoint_that_others_use_stays(hosts: Hosts) -> None:
    """Its host refused to show it, and to delete it, and held its port."""
    one, two = hosts
    limit(one, 1)
    with pytest.raises(Error):
        await create_endpoint(one)
    limit(one, None)
    await two.in_line()
    await two.join("c2", "web")
    await collect(hosts)
    await one.in_line()
    assert one.names() == two.names() == ["old", "plain", "web"]
    await one.controller._garbage.collect()
    await two.leave("c2", "web")
    await one.in_line()
    assert_agreed(hosts)
    await one.controller.removal.endpoint("net", "web")
    await two.in_line()
    assert one.names() == two.names() == ["old", "plain"]
    assert_agreed(hosts)


async def test_half_made_endpoint_goes_once_the_store_answers(hosts: Hosts) -> None:
    one, _ = hosts
    before = state(one)
    limit(one, 1)
    with pytest.raises(Error):
        await create_endpoint(one)
    limit(one, None)
    one.shared.cut_off()
    for _ in range(2):
        await one.controller._garbage.collect()
    assert [each for each in one.controller._garbage.problems if each.startswith("endpoint web is left")]
    one.shared.reconnect()
    await collect(hosts)
    assert_agreed(hosts)
    assert state(one) == before


async def test_ports_of_another_host_stay_published_there(hosts: Hosts) -> None:
    """This one, whose disk is full, cannot publish them for its own container yet."""
    one, two = hosts
    theirs = await two.endpoint("theirs")
    await one.in_line()
    await one.join("c1", "theirs", many=True)
    await two.in_line()
    limit(one, 0)
    await two.controller.sandboxes.publish(theirs, [mapping(8083)])
    await one.in_line()
    assert [port.host_port for port in shared_ports(one, theirs)] == [8083]
    assert one.controller.health().problems
    limit(one, None)
    await collect(hosts)
    assert_agreed(hosts)
    assert 8083 in {port for _, _, port in one.kernel.host.held}
