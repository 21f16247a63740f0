"""A disk that takes a tenth of a second for each transaction: many changes share one, and no one who reads waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers
from sandnet.model import EndpointSpec, JoinSpec, NetworkSpec
from sandnet.stores.sqlite import rows
from sandnet.stores.sqlite.store import SqliteStore

COMMIT = 0.1
MANY = 50


@pytest.fixture
def written() -> list[float]:
    """When the store wrote: once a transaction."""
    return []


@pytest.fixture
async def controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[float]
) -> AsyncIterator[Controller]:
    """A started daemon over the real store, every transaction of which takes ``COMMIT`` longer, and a network."""
    write = rows.write

    def slow(*args: Any, **options: Any) -> Any:
        written.append(time.monotonic())
        time.sleep(COMMIT)
        return write(*args, **options)

    store = SqliteStore(tmp_path / "state" / "sandnet.db")
    await store.open()
    workers = Workers()
    made = assemble(
        Config(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run")), store, FakeKernel(), workers
    )
    await made.start()
    await made.networks.create(NetworkSpec(name="foo", driver="bridge"))
    monkeypatch.setattr(rows, "write", slow)
    yield made
    await made.stop()
    workers.close()
    await store.close()


async def timed(each: Callable[[int], Awaitable[object]]) -> float:
    """Seconds for ``MANY`` at once, all of which must succeed."""
    began = time.monotonic()
    await asyncio.gather(*(each(i) for i in range(MANY)))
    return time.monotonic() - began


async def test_fifty_creates_on_slow_storage_share_commits(controller: Controller, written: list[float]) -> None:
    """Far less than 50 times as long as one: what a busy machine adds besides is not the store's."""

    def network(i: int) -> Awaitable[object]:
        return controller.networks.create(NetworkSpec(name=f"n{i}", driver="bridge"))

    def endpoint(i: int) -> Awaitable[object]:
        return controller.endpoints.create("foo", EndpointSpec(name=f"p{i}"))

    def join(i: int) -> Awaitable[object]:
        return controller.sandboxes.join("foo", f"p{i}", JoinSpec(container_id=f"k{i}"))

    for each in (network, endpoint, join):
        written.clear()
        await timed(each)
        assert len(written) < MANY / 2


async def test_reads_on_slow_storage_do_not_wait_for_commits(
    controller: Controller,
) -> None:
    making = asyncio.ensure_future(timed(lambda i: controller.endpoints.create("foo", EndpointSpec(name=f"p{i}"))))
    answers = []
    while not making.done():
        began = time.monotonic()
        await asyncio.sleep(0)
        assert controller.networks.list()
        assert controller.health().status == "ok"
        answers.append(time.monotonic() - began)
        await asyncio.wait([making], timeout=0.001)
    assert await making > COMMIT
    assert median(answers) < COMMIT / 2
