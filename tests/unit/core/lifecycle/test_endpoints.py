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
async def core(tmp_path: Path) -> AsyncIterator[NamedCore]:
    """A started daemon with the network ``foo``."""
    core = NamedCore(Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")), store=GatedStore())
    await core.start()
    await core.network()
    core.unattended()
    yield core
    store_of(core).gate.set()
    await core.controller.stop()
    core.workers.close()


def store_of(core: NamedCore) -> GatedStore:
    assert isinstance(core.store, GatedStore)
    return core.store


async def test_endpoint_without_ports_takes_one_commit_each_way(core: NamedCore) -> None:
    before = store_of(core).commits
    await core.endpoint("one")
    assert store_of(core).commits == before + 1
    await core.controller.removal.endpoint("foo", "one")
    assert store_of(core).commits == before + 2


async def test_endpoint_is_recorded_before_its_ports_are_published(core: NamedCore) -> None:
    before = store_of(core).commits
    await core.endpoint("one", port_mapping=(mapping(8080),))
    assert store_of(core).commits == before + 2


async def test_endpoint_is_visible_only_when_its_commit_is_durable(core: NamedCore) -> None:
    store, network = store_of(core), core.controller.networks.find("foo")
    store.close_gate()
    creating = asyncio.create_task(core.endpoint("one"))
    await store.reached.wait()
    assert core.controller.endpoints.list(network) == []
    with pytest.raises(Error) as absent:
        await core.join("c1", "one")
    assert absent.value.kind is Kind.NOT_FOUND
    with pytest.raises(Error) as taken:
        await core.endpoint("one")
    assert taken.value.kind is Kind.NAME_TAKEN
    store.gate.set()
    endpoint = await creating
    assert core.controller.endpoints.list(network) == [endpoint]


async def test_names_are_sent_while_the_commit_is_written(core: NamedCore) -> None:
    store, network = store_of(core), core.controller.networks.find("foo")
    store.close_gate()
    creating = asyncio.create_task(core.endpoint("one"))
    await store.reached.wait()
    assert core.answers("one", network)
    store.gate.set()
    await creating


async def test_refused_creation_leaves_no_name_and_no_lease(core: NamedCore) -> None:
    network = core.controller.networks.find("foo")
    store_of(core).refusal = DISK_FULL
    with pytest.raises(Error, match="the disk is full"):
        await core.endpoint("one")
    assert not core.answers("one", network)
    assert core.controller._context.records.endpoints() == []
    assert (await core.endpoint("one")).name == "one"
    assert core.answers("one", network)


async def test_refused_deletion_leaves_the_endpoint_with_its_name(core: NamedCore) -> None:
    network, endpoint = core.controller.networks.find("foo"), await core.endpoint("one")
    store_of(core).refusal = DISK_FULL
    with pytest.raises(Error, match="the disk is full"):
        await core.controller.removal.endpoint("foo", "one")
    assert core.controller.endpoints.list(network) == [endpoint]
    assert core.answers("one", network)
    await core.controller.removal.endpoint("foo", "one")
    assert not core.answers("one", network)


async def test_address_is_released_after_its_name_is_gone(core: NamedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    network, endpoint = core.controller.networks.find("foo"), await core.endpoint("one")
    assert endpoint.address
    unnamed = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(core.controller._context.resolver_sync, "endpoint_removed", lambda _: unnamed)
    deleting = asyncio.create_task(core.controller.removal.endpoint("foo", "one"))
    records = core.controller._context.records
    while records.endpoints():
        await asyncio.wait([deleting], timeout=0)
    with pytest.raises(Error) as taken:
        await core.endpoint("two", address=endpoint.address.ip)
    assert taken.value.kind is Kind.CONFLICT
    unnamed.set_result(None)
    await deleting
    assert (await core.endpoint("two", address=endpoint.address.ip)).network_id == network.id
