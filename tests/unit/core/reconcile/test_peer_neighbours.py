"""Sandboxes get entries for each other while the table of neighbours is full, and lose them afterwards."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest

from sandnet.core.reconcile import drift_watcher, neighbour_table, peer_neighbours
from sandnet.core.reconcile.peer_neighbours import PeerNeighbours
from sandnet.errors import Error, Kind
from sandnet.model import JoinSpec, Sandbox
from tests.support.conditions import until
from tests.support.core_in_process import CoreInProcess

ONE, TWO, THREE = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
FULL = frozenset({4})


@pytest.fixture
def peers(core: CoreInProcess) -> PeerNeighbours:
    """A second one beside the daemon's own, which has nothing to do: no table is full."""
    watcher = core.controller._drift_watcher
    return PeerNeighbours(watcher._desired, core.kernel.links, core.workers)


async def joined(core: CoreInProcess, number: int, mac: str, network: str = "foo") -> Sandbox:
    await core.endpoint(f"e{number}", network, mac=mac, address=ip_address(f"172.28.0.{number}"))
    return await core.join(f"c{number}", f"e{number}", network)


def neighbours(core: CoreInProcess, sandbox: Sandbox) -> dict[str, str]:
    inner = core.kernel.namespaces.inside(sandbox.key).links["eth0"]
    return {str(address): mac for address, mac in inner.neighbours.items()}


async def network(core: CoreInProcess, name: str = "foo", **options: object) -> None:
    await core.network(name, subnet=IPv4Interface("172.28.0.0/24").network, **options)


async def test_sandboxes_get_entries_for_each_other(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core)
    one, two = await joined(core, 11, ONE), await joined(core, 12, TWO)
    await peers.update(FULL)
    assert neighbours(core, one) == {"172.28.0.12": TWO}
    assert neighbours(core, two) == {"172.28.0.11": ONE}
    await peers.update(frozenset())
    assert (neighbours(core, one), neighbours(core, two)) == ({}, {})


async def test_entries_follow_joins_and_leaves(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core)
    one, two = await joined(core, 11, ONE), await joined(core, 12, TWO)
    await peers.update(FULL)
    three = await joined(core, 13, THREE)
    await core.controller.sandboxes.leave("foo", "e12", two.container_id)
    await peers.update(FULL)
    assert neighbours(core, one) == {"172.28.0.13": THREE}
    assert neighbours(core, three) == {"172.28.0.11": ONE}


async def test_entries_are_written_once(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core)
    for number, mac in (11, ONE), (12, TWO):
        await joined(core, number, mac)
    await peers.update(FULL)
    written = core.kernel.calls.count("links.change_neighbours")
    await peers.update(FULL)
    assert core.kernel.calls.count("links.change_neighbours") == written == 2


async def test_only_the_full_version_gets_entries(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core, ipv6=True, subnet_ipv6=IPv6Interface("fd00:28::/64").network)
    one, _two = await joined(core, 11, ONE), await joined(core, 12, TWO)
    await peers.update(frozenset({6}))
    (found,) = neighbours(core, one)
    assert found.startswith("fd00:28::")
    await peers.update(FULL)
    assert neighbours(core, one) == {"172.28.0.12": TWO}


async def test_large_network_gets_no_entries(
    core: CoreInProcess, peers: PeerNeighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network(core)
    one, _two = await joined(core, 11, ONE), await joined(core, 12, TWO)
    monkeypatch.setattr(peer_neighbours, "MOST_PEERS", 2)
    await peers.update(FULL)
    assert neighbours(core, one)
    await joined(core, 13, THREE)
    await peers.update(FULL)
    assert neighbours(core, one) == {}


async def test_shared_address_is_the_holders(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core)
    client = await joined(core, 11, ONE)
    await joined(core, 12, TWO)
    second = await core.controller.services.attach("e12", JoinSpec(container_id="second"))
    await peers.update(FULL)
    assert neighbours(core, client)["172.28.0.12"] == TWO
    assert len(neighbours(core, client)) == 2
    await core.controller.sandboxes.leave("foo", "e12", "c12")
    await peers.update(FULL)
    assert neighbours(core, client)["172.28.0.12"] not in (TWO, "")
    assert neighbours(core, second)["172.28.0.11"] == ONE


async def test_sandbox_that_cannot_be_changed_does_not_stop_others(core: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(core)
    boxes = [await joined(core, 11, ONE), await joined(core, 12, TWO)]
    core.kernel.fail_on("links.change_neighbours", Error(Kind.NOT_FOUND, "gone"))
    await peers.update(FULL)
    assert sum(len(neighbours(core, box)) for box in boxes) == 1


async def test_daemon_gives_entries_when_the_table_overflows(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_watcher, "SLOW_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(drift_watcher, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(neighbour_table, "HOLD", 0.3)
    core.kernel.state_reader.overflows = {4: 7}
    await core.start()
    await network(core)
    one, _two = await joined(core, 11, ONE), await joined(core, 12, TWO)
    watcher = core.controller._drift_watcher
    await until(lambda: watcher._neighbours._counts == {4: 7})
    core.kernel.state_reader.overflows = {4: 8}
    await until(lambda: neighbours(core, one) == {"172.28.0.12": TWO})
    await until(lambda: neighbours(core, one) == {})
