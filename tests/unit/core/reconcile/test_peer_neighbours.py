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
def peers(rig: CoreInProcess) -> PeerNeighbours:
    """A second one beside the daemon's own, which has nothing to do: no table is full."""
    watcher = rig.controller._drift_watcher
    return PeerNeighbours(watcher._desired, rig.kernel.links, rig.workers)


async def joined(rig: CoreInProcess, number: int, mac: str, network: str = "foo") -> Sandbox:
    await rig.endpoint(f"e{number}", network, mac=mac, address=ip_address(f"172.28.0.{number}"))
    return await rig.join(f"c{number}", f"e{number}", network)


def neighbours(rig: CoreInProcess, sandbox: Sandbox) -> dict[str, str]:
    inner = rig.kernel.namespaces.inside(sandbox.key).links["eth0"]
    return {str(address): mac for address, mac in inner.neighbours.items()}


async def network(rig: CoreInProcess, name: str = "foo", **options: object) -> None:
    await rig.network(name, subnet=IPv4Interface("172.28.0.0/24").network, **options)


async def test_sandboxes_get_entries_for_each_other(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig)
    one, two = await joined(rig, 11, ONE), await joined(rig, 12, TWO)
    await peers.update(FULL)
    assert neighbours(rig, one) == {"172.28.0.12": TWO}
    assert neighbours(rig, two) == {"172.28.0.11": ONE}
    await peers.update(frozenset())
    assert (neighbours(rig, one), neighbours(rig, two)) == ({}, {})


async def test_entries_follow_joins_and_leaves(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig)
    one, two = await joined(rig, 11, ONE), await joined(rig, 12, TWO)
    await peers.update(FULL)
    three = await joined(rig, 13, THREE)
    await rig.controller.sandboxes.leave("foo", "e12", two.container_id)
    await peers.update(FULL)
    assert neighbours(rig, one) == {"172.28.0.13": THREE}
    assert neighbours(rig, three) == {"172.28.0.11": ONE}


async def test_entries_are_written_once(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig)
    for number, mac in (11, ONE), (12, TWO):
        await joined(rig, number, mac)
    await peers.update(FULL)
    written = rig.kernel.calls.count("links.change_neighbours")
    await peers.update(FULL)
    assert rig.kernel.calls.count("links.change_neighbours") == written == 2


async def test_only_the_full_version_gets_entries(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig, ipv6=True, subnet_ipv6=IPv6Interface("fd00:28::/64").network)
    one, _two = await joined(rig, 11, ONE), await joined(rig, 12, TWO)
    await peers.update(frozenset({6}))
    (found,) = neighbours(rig, one)
    assert found.startswith("fd00:28::")
    await peers.update(FULL)
    assert neighbours(rig, one) == {"172.28.0.12": TWO}


async def test_large_network_gets_no_entries(
    rig: CoreInProcess, peers: PeerNeighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    await network(rig)
    one, _two = await joined(rig, 11, ONE), await joined(rig, 12, TWO)
    monkeypatch.setattr(peer_neighbours, "MOST_PEERS", 2)
    await peers.update(FULL)
    assert neighbours(rig, one)
    await joined(rig, 13, THREE)
    await peers.update(FULL)
    assert neighbours(rig, one) == {}


async def test_shared_address_is_the_holders(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig)
    client = await joined(rig, 11, ONE)
    await joined(rig, 12, TWO)
    second = await rig.controller.services.attach("e12", JoinSpec(container_id="second"))
    await peers.update(FULL)
    assert neighbours(rig, client)["172.28.0.12"] == TWO
    assert len(neighbours(rig, client)) == 2
    await rig.controller.sandboxes.leave("foo", "e12", "c12")
    await peers.update(FULL)
    assert neighbours(rig, client)["172.28.0.12"] not in (TWO, "")
    assert neighbours(rig, second)["172.28.0.11"] == ONE


async def test_sandbox_that_cannot_be_changed_does_not_stop_others(rig: CoreInProcess, peers: PeerNeighbours) -> None:
    await network(rig)
    boxes = [await joined(rig, 11, ONE), await joined(rig, 12, TWO)]
    rig.kernel.fail_on("links.change_neighbours", Error(Kind.NOT_FOUND, "gone"))
    await peers.update(FULL)
    assert sum(len(neighbours(rig, box)) for box in boxes) == 1


async def test_daemon_gives_entries_when_the_table_overflows(
    rig: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_watcher, "SLOW_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(drift_watcher, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(neighbour_table, "HOLD", 0.3)
    rig.kernel.state_reader.overflows = {4: 7}
    await rig.start()
    await network(rig)
    one, _two = await joined(rig, 11, ONE), await joined(rig, 12, TWO)
    watcher = rig.controller._drift_watcher
    await until(lambda: watcher._neighbours._counts == {4: 7})
    rig.kernel.state_reader.overflows = {4: 8}
    await until(lambda: neighbours(rig, one) == {"172.28.0.12": TWO})
    await until(lambda: neighbours(rig, one) == {})
