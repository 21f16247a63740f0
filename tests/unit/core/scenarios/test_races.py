"""Requests that meet at the one moment at which they could harm each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.config import Config
from sandnet.errors import Error, Kind
from sandnet.model import Phase
from sandnet.stores.base import Change, Delete
from tests.support.core_in_process import CoreInProcess, MoodyStore, mapping


class GatedStore(MoodyStore):
    """A store that can be made to wait before it commits, and counts the endpoints it forgot."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.forgotten = 0

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        self.reached.set()
        await self.gate.wait()
        self.forgotten += sum(isinstance(change, Delete) and change.key.startswith("endpoint/") for change in changes)
        return await super().commit(*changes, durable=durable)


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
async def core(tmp_path: Path, store: GatedStore) -> AsyncIterator[CoreInProcess]:
    """A started daemon with the network ``foo``."""
    core = CoreInProcess(Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")), store=store)
    await core.start()
    await core.network()
    yield core
    await core.controller.stop()
    core.workers.close()


async def test_endpoint_create_is_refused_during_network_deletion(core: CoreInProcess, store: GatedStore) -> None:
    store.reached.clear()
    store.gate.clear()
    deleting = asyncio.create_task(core.controller.removal.network("foo"))
    await store.reached.wait()
    creating = asyncio.create_task(core.endpoint("one"))
    again = asyncio.create_task(core.network())
    await asyncio.wait([creating], timeout=0.02)
    store.gate.set()
    await deleting
    with pytest.raises(Error) as refused:
        await creating
    assert refused.value.kind is Kind.NOT_FOUND
    await asyncio.wait([again])
    assert core.controller.services.list() == []


async def test_create_during_rollback_of_the_same_name_undoes_it_once(core: CoreInProcess, store: GatedStore) -> None:
    core.kernel.fail_on("firewall.change", Error(Kind.INTERNAL, "broken on purpose"))
    first = asyncio.create_task(core.endpoint("one", port_mapping=(mapping(8080),)))
    records = core.controller._context.records
    while not [each for each in records.endpoints() if each.phase is Phase.REMOVING]:
        await asyncio.wait([first], timeout=0)
    await asyncio.gather(first, core.endpoint("one", port_mapping=(mapping(8080),)), return_exceptions=True)
    assert first.exception()
    assert store.forgotten == 1


async def test_containers_with_a_common_prefix_join_at_once(core: CoreInProcess) -> None:
    names = [f"e{number}" for number in range(6)]
    for name in names:
        await core.endpoint(name)
    made = await asyncio.gather(*(core.join(f"0123456789ab{name}", name) for name in names))
    assert len({sandbox.key for sandbox in made}) == len(names)


async def test_concurrent_restore_of_many_networks_writes_the_files(
    core: CoreInProcess,
) -> None:
    for name in ["foo", *(f"n{i}" for i in range(7))]:
        if name != "foo":
            await core.network(name)
        await core.endpoint("one", name)
        await core.join("c1", "one", name)
    for _ in range(10):
        await core.controller.stop()
        assert (await core.start()).health().problems == ()
