"""Whatever hangs, every request is answered in time, and with the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from threading import Event

import pytest

from sandnet.config import Config
from sandnet.core.runtime.operations import Operations
from sandnet.core.state import records
from sandnet.errors import Error, Kind
from sandnet.kernel.types import Bridge
from sandnet.kernel.workers import Timeouts, Workers
from sandnet.stores.base import Change
from tests.support.core_in_process import CoreInProcess, MoodyStore

DEADLINE = 0.3
SOON = 10.0


class HangingStore(MoodyStore):
    """A store whose commits wait while it is reported to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.works = asyncio.Event()
        self.works.set()

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        await self.works.wait()
        return await super().commit(*changes, durable=durable)


@pytest.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CoreInProcess]:
    """A started daemon that is impatient."""
    workers = Workers(threads=2, spare=1, timeouts=Timeouts(queue=0.2, job=0.05))
    core = CoreInProcess(
        Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")), store=HangingStore(), workers=workers
    )
    await core.start()
    await core.network()
    monkeypatch.setattr(core.controller._context.operations, "_deadline", DEADLINE)
    monkeypatch.setattr(records, "HANGS", 0.05)
    yield core
    await core.controller.stop()
    core.workers.close()


async def refusal(change: Awaitable[object]) -> tuple[Kind, str]:
    """How a request is refused, in time."""
    async with asyncio.timeout(SOON):
        with pytest.raises(Error) as refused:
            await change
    return refused.value.kind, refused.value.code


async def idle(core: CoreInProcess) -> None:
    """Until no change is under way."""
    async with asyncio.timeout(SOON):
        while core.controller.health().operations:  # noqa: ASYNC110 - nothing reports when the last one ends
            await asyncio.sleep(0.01)


async def test_request_completes_once_a_hung_kernel_call_returns(
    core: CoreInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = Event()
    make = core.kernel.links.ensure_bridge

    def hang(bridge: Bridge) -> None:
        back.wait(60)
        make(bridge)

    monkeypatch.setattr(core.kernel.links, "ensure_bridge", hang)
    try:
        assert await refusal(core.network("bar")) == (Kind.UNAVAILABLE, "deadline")
        health = core.controller.health()
        assert health.status == "degraded"
        assert any("has been running for" in problem for problem in health.problems)
        assert health.operations == 1
        assert [net.name for net in core.controller.networks.list()][-1] == "foo"
        await core.endpoint("one")  # others go on in the meantime
        assert await refusal(core.network("bar")) == (Kind.NAME_TAKEN, "name_taken")
    finally:
        back.set()
    await idle(core)
    assert [net.name for net in core.controller.networks.list()][-1] == "bar"
    assert core.controller.health().status == "ok"


async def test_hung_store_gives_changes_503_and_reads_do_not_wait(core: CoreInProcess) -> None:
    store = core.store
    assert isinstance(store, HangingStore)
    store.works.clear()
    try:
        assert await refusal(core.network("bar")) == (Kind.UNAVAILABLE, "deadline")
        assert [net.name for net in core.controller.networks.list()][-1] == "foo"
        (problem,) = core.controller.health().problems
        assert problem.startswith("the store has not answered a commit for")
    finally:
        store.works.set()
    await idle(core)
    assert core.controller.health().status == "ok"
    assert [net.name for net in core.controller.networks.list()][-1] == "bar"


async def test_change_beyond_the_concurrency_limit_is_refused_at_once() -> None:
    operations = Operations(limit=3)
    end = asyncio.Event()
    running = [asyncio.create_task(operations.run(end.wait())) for _ in range(3)]
    await asyncio.wait(running, timeout=0)
    assert operations.count == 3
    async with asyncio.timeout(SOON):
        with pytest.raises(Error) as refused:
            await operations.run(end.wait())
    assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, "overloaded")
    end.set()
    await asyncio.gather(*running)
    assert await operations.run(end.wait())
