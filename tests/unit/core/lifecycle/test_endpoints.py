"""An endpoint without ports: one commit creates it, and one deletes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.dns.base import SetClient
from sandnet.dns.fake import FakeNames
from sandnet.errors import Error, Kind
from sandnet.model import Network
from sandnet.stores.base import Change
from tests.support.core_in_process import CoreInProcess, MoodyStore, mapping

DISK_FULL = Error(Kind.UNAVAILABLE, "the disk is full")


class GatedStore(MoodyStore):
    """A store that counts its commits, and can be made to wait before each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.commits = 0

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        self.commits += 1
        self.reached.set()
        await self.gate.wait()
        return await super().commit(*changes, durable=durable)

    def close_gate(self) -> None:
        """Let the next commit wait."""
        self.reached.clear()
        self.gate.clear()


class NamedCore(CoreInProcess):
    """A daemon with a name service in memory."""

    names: FakeNames

    async def _another(self) -> Controller:
        self.names = FakeNames()
        self.controller = assemble(self.config, self.store, self.kernel, self.workers, self.names)
        return self.controller

    def answers(self, name: str, network: Network) -> bool:
        """Whether the resolver has that name on the network."""
        client = SetClient(container_id="box", key="", inode=1, networks=(network.id,))
        return self.names.table.lookup(client, name) is not None


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NamedCore]:
    """A started daemon with the network ``foo``."""
    rig = NamedCore(Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")), store=GatedStore())
    await rig.start()
    await rig.network()
    rig.unattended()
    yield rig
    store_of(rig).gate.set()
    await rig.controller.stop()
    rig.workers.close()


def store_of(rig: NamedCore) -> GatedStore:
    assert isinstance(rig.store, GatedStore)
    return rig.store


async def test_endpoint_without_ports_takes_one_commit_each_way(rig: NamedCore) -> None:
    before = store_of(rig).commits
    await rig.endpoint("one")
    assert store_of(rig).commits == before + 1
    await rig.controller.removal.endpoint("foo", "one")
    assert store_of(rig).commits == before + 2


async def test_endpoint_is_recorded_before_its_ports_are_published(rig: NamedCore) -> None:
    before = store_of(rig).commits
    await rig.endpoint("one", port_mapping=(mapping(8080),))
    assert store_of(rig).commits == before + 2


async def test_endpoint_is_visible_only_when_its_commit_is_durable(rig: NamedCore) -> None:
    store, network = store_of(rig), rig.controller.networks.find("foo")
    store.close_gate()
    creating = asyncio.create_task(rig.endpoint("one"))
    await store.reached.wait()
    assert rig.controller.endpoints.list(network) == []
    with pytest.raises(Error) as absent:
        await rig.join("c1", "one")
    assert absent.value.kind is Kind.NOT_FOUND
    with pytest.raises(Error) as taken:
        await rig.endpoint("one")
    assert taken.value.kind is Kind.NAME_TAKEN
    store.gate.set()
    endpoint = await creating
    assert rig.controller.endpoints.list(network) == [endpoint]


async def test_names_are_sent_while_the_commit_is_written(rig: NamedCore) -> None:
    store, network = store_of(rig), rig.controller.networks.find("foo")
    store.close_gate()
    creating = asyncio.create_task(rig.endpoint("one"))
    await store.reached.wait()
    assert rig.answers("one", network)
    store.gate.set()
    await creating


async def test_refused_creation_leaves_no_name_and_no_lease(rig: NamedCore) -> None:
    network = rig.controller.networks.find("foo")
    store_of(rig).refusal = DISK_FULL
    with pytest.raises(Error, match="the disk is full"):
        await rig.endpoint("one")
    assert not rig.answers("one", network)
    assert rig.controller._context.records.endpoints() == []
    assert (await rig.endpoint("one")).name == "one"
    assert rig.answers("one", network)


async def test_refused_deletion_leaves_the_endpoint_with_its_name(rig: NamedCore) -> None:
    network, endpoint = rig.controller.networks.find("foo"), await rig.endpoint("one")
    store_of(rig).refusal = DISK_FULL
    with pytest.raises(Error, match="the disk is full"):
        await rig.controller.removal.endpoint("foo", "one")
    assert rig.controller.endpoints.list(network) == [endpoint]
    assert rig.answers("one", network)
    await rig.controller.removal.endpoint("foo", "one")
    assert not rig.answers("one", network)


async def test_address_is_released_after_its_name_is_gone(rig: NamedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    network, endpoint = rig.controller.networks.find("foo"), await rig.endpoint("one")
    assert endpoint.address
    unnamed = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(rig.controller._context.resolver_sync, "endpoint_removed", lambda _: unnamed)
    deleting = asyncio.create_task(rig.controller.removal.endpoint("foo", "one"))
    records = rig.controller._context.records
    while records.endpoints():
        await asyncio.wait([deleting], timeout=0)
    with pytest.raises(Error) as taken:
        await rig.endpoint("two", address=endpoint.address.ip)
    assert taken.value.kind is Kind.CONFLICT
    unnamed.set_result(None)
    await deleting
    assert (await rig.endpoint("two", address=endpoint.address.ip)).network_id == network.id
