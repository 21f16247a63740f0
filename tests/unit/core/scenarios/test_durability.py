"""Which changes are synced before the answer: those of which something outlives a crash of the machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandnet.config import Config
from sandnet.stores.base import Change
from tests.support.core_in_process import CoreInProcess, MoodyStore


class NotingStore(MoodyStore):
    """A store that notes which commits must be durable."""

    def __init__(self) -> None:
        super().__init__()
        self.durable: list[bool] = []

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        self.durable.append(durable)
        return await super().commit(*changes, durable=durable)


@pytest.fixture
def store() -> NotingStore:
    return NotingStore()


@pytest.fixture
async def core(tmp_path: Path, store: NotingStore) -> AsyncIterator[CoreInProcess]:
    """A started daemon with the network ``foo``."""
    config = Config(
        state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"), file_dirs=(str(tmp_path / "allowed"),)
    )
    core = CoreInProcess(config, store=store)
    await core.start()
    await core.network()
    core.unattended()
    yield core
    await core.controller.stop()
    core.workers.close()


async def test_join_and_leave_are_not_synced(core: CoreInProcess, store: NotingStore) -> None:
    await core.endpoint("web")
    store.durable.clear()
    await core.join("c1", "web")
    await core.controller.sandboxes.leave("foo", "web", "c1")
    assert store.durable
    assert not any(store.durable)


async def test_networks_and_endpoints_are_synced(core: CoreInProcess, store: NotingStore) -> None:
    store.durable.clear()
    await core.endpoint("web")
    assert store.durable == [True]
    await core.controller.removal.endpoint("foo", "web")
    assert store.durable == [True, True]
    await core.controller.removal.network("foo")
    assert store.durable[-1]


async def test_join_that_replaced_a_file_is_synced(core: CoreInProcess, store: NotingStore) -> None:
    hosts = Path(core.config.file_dirs[0], "c1", "hosts")
    hosts.parent.mkdir(parents=True)
    hosts.write_text("10.0.0.1 mine\n")
    await core.endpoint("web")
    store.durable.clear()
    await core.join("c1", "web", hosts_path=str(hosts))
    assert store.durable[-1]
    await core.controller.sandboxes.leave("foo", "web", "c1")
    assert store.durable[-1]
