"""The faults of the shared store in memory, which other tests inject."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandnet.errors import Error
from sandnet.stores.base import Changed, Put, Snapshot
from sandnet.stores.memory_shared import MemoryCluster, MemorySharedStore, WriteFault
from sandnet.stores.shared import Absent, ConditionFailed, OutcomeUnknown


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    made = MemoryCluster()
    yield made
    made.close()


@pytest.fixture
def store(cluster: MemoryCluster) -> MemorySharedStore:
    return MemorySharedStore(cluster)


@pytest.fixture
def other(cluster: MemoryCluster) -> MemorySharedStore:
    return MemorySharedStore(cluster)


async def test_lost_answer_leaves_the_write_applied(store: MemorySharedStore) -> None:
    store.faults.append(WriteFault.LOSE_ANSWER)

    with pytest.raises(OutcomeUnknown) as caught:
        await store.transact([Put("a", b"")])

    assert caught.value.code == "outcome_unknown"
    assert await store.get("a")


async def test_lost_request_is_not_applied(store: MemorySharedStore) -> None:
    store.faults.append(WriteFault.LOSE_REQUEST)

    with pytest.raises(OutcomeUnknown):
        await store.transact([Put("a", b"")])

    assert await store.get("a") is None


async def test_lost_refusal_is_an_unknown_outcome_too(store: MemorySharedStore) -> None:
    await store.transact([Put("a", b"")])
    store.faults.append(WriteFault.LOSE_ANSWER)

    with pytest.raises(OutcomeUnknown):
        await store.transact([Put("b", b"")], [Absent("a")])

    assert await store.get("b") is None


async def test_delayed_request_is_compared_when_it_arrives(store: MemorySharedStore, other: MemorySharedStore) -> None:
    store.faults += [WriteFault.DELAY, WriteFault.DELAY]
    for key in ("a", "b"):
        with pytest.raises(OutcomeUnknown):
            await store.transact([Put(key, b"late")], [Absent(key)])
    await other.transact([Put("a", b"other")])

    store.cluster.deliver()

    assert [entry.value for entry in (await other.read(["a", "b"])).entries] == [b"other", b"late"]


async def test_repeatable_write_is_sent_once_more(store: MemorySharedStore) -> None:
    store.faults.append(WriteFault.LOSE_ANSWER)

    with pytest.raises(ConditionFailed):
        await store.transact([Put("a", b"")], [Absent("a")], repeatable=True)


async def test_client_that_is_cut_off_is_refused(store: MemorySharedStore, other: MemorySharedStore) -> None:
    store.cut_off()
    before = store.last_contact

    with pytest.raises(Error) as caught:
        await store.transact([Put("a", b"")])

    assert caught.value.code == "store_unavailable"
    assert store.last_contact == before
    assert await other.get("a") is None


async def test_watch_continues_with_a_snapshot_after_a_cut(store: MemorySharedStore, other: MemorySharedStore) -> None:
    watch = store.watch("")
    await anext(watch)
    store.cut_off()
    first = await other.transact([Put("a", b"")])
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert not waiting.done()

    store.reconnect()

    assert (await waiting).revision == first
    second = await other.transact([Put("b", b"")])
    change = await anext(watch)
    assert isinstance(change, Changed)
    assert change.revision == second


async def test_compaction_and_restore_lead_to_a_snapshot(store: MemorySharedStore, other: MemorySharedStore) -> None:
    await other.transact([Put("a", b"1")])
    backup = await other.snapshot("")
    await other.transact([Put("a", b"2")])
    watch = store.watch("")
    await anext(watch)

    store.cluster.compact()
    assert isinstance(await anext(watch), Snapshot)
    store.cluster.restore(backup)

    assert await anext(watch) == backup
    last = await other.transact([Put("b", b"")])
    assert last == backup.revision + 1
    assert (await anext(watch)).revision == last
