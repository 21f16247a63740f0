"""What every store promises, asked of each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Conflict, Delete, Entry, Put, Snapshot, Store
from sandnet.stores.etcd.etcd_store import EtcdStore
from sandnet.stores.etcd.location import EtcdLocation
from sandnet.stores.memory import MemoryStore
from sandnet.stores.memory_shared import MemorySharedStore
from sandnet.stores.sqlite.store import SqliteStore
from tests.support.snapshots import is_snapshot

BACKLOG = 8
DEADLINE = 10.0


async def make_memory(directory: Path, _: Callable[[], EtcdLocation]) -> Store:
    return MemoryStore(backlog=BACKLOG)


async def make_sqlite(directory: Path, _: Callable[[], EtcdLocation]) -> Store:
    store = SqliteStore(directory / "state" / "sandnet.db", backlog=BACKLOG)
    await store.open()
    return store


async def make_memory_shared(directory: Path, _: Callable[[], EtcdLocation]) -> Store:
    return MemorySharedStore(backlog=BACKLOG)


async def make_etcd(directory: Path, location: Callable[[], EtcdLocation]) -> Store:
    return EtcdStore(location(), deadline=DEADLINE, backlog=BACKLOG)


@pytest.fixture(
    params=[make_memory, make_sqlite, make_memory_shared, make_etcd], ids=["memory", "sqlite", "shared memory", "etcd"]
)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, etcd_location: Callable[[], EtcdLocation]
) -> AsyncIterator[Store]:
    make: Callable[[Path, Callable[[], EtcdLocation]], Awaitable[Store]] = request.param
    made = await make(tmp_path, etcd_location)
    yield made
    await made.close()


async def keys(store: Store, prefix: str) -> list[str]:
    return [entry.key for entry in await store.list(prefix)]


async def following(watch: AsyncIterator[Snapshot | Changed]) -> Snapshot | Changed:
    return await asyncio.wait_for(anext(watch), DEADLINE)


async def test_get_of_an_absent_key_returns_none(store: Store) -> None:
    assert await store.get("networks/a") is None


async def test_get_after_put_returns_value_and_commit_revision(store: Store) -> None:
    revision = await store.commit(Put("networks/a", b"\x00\xff"))

    assert revision > 0
    assert await store.get("networks/a") == Entry("networks/a", b"\x00\xff", revision)


async def test_only_the_changed_key_gets_a_new_revision(store: Store) -> None:
    first = await store.commit(Put("a", b"1"), Put("b", b"1"))
    second = await store.commit(Put("b", b"2"))

    assert await store.list("") == [Entry("a", b"1", first), Entry("b", b"2", second)]
    assert second == first + 1


async def test_revision_grows_across_delete_and_put(store: Store) -> None:
    first = await store.commit(Put("a", b"1"))
    second = await store.commit(Delete("a"))
    third = await store.commit(Put("a", b"2", expect=0))

    assert first < second < third


async def test_deleting_an_absent_key_is_no_error(store: Store) -> None:
    await store.commit(Delete("a"))
    await store.commit(Delete("a", expect=0))

    assert await store.list("") == []


@pytest.mark.parametrize("change", [Put("a", b"new", expect=0), Put("a", b"new", expect=99), Delete("a", expect=99)])
async def test_wrong_expectation_raises_conflict_naming_the_key(store: Store, change: Put | Delete) -> None:
    revision = await store.commit(Put("held", b""), Put("a", b"old"))

    with pytest.raises(Conflict) as caught:
        await store.commit(Put("held", b"", expect=revision), change)

    assert caught.value.key == "a"
    assert await store.get("a") == Entry("a", b"old", revision)


@pytest.mark.parametrize("change", [Put("a", b"new", expect=1), Delete("a", expect=1)])
async def test_expecting_a_revision_of_an_absent_key_raises_conflict(store: Store, change: Put | Delete) -> None:
    with pytest.raises(Conflict):
        await store.commit(change)


async def test_commit_with_the_right_revision_is_written(store: Store) -> None:
    revision = await store.commit(Put("a", b"1"))
    revision = await store.commit(Put("a", b"2", expect=revision))
    await store.commit(Delete("a", expect=revision))

    assert await store.get("a") is None


async def test_failed_expectation_leaves_nothing_of_the_commit(store: Store) -> None:
    revision = await store.commit(Put("held", b"1"), Put("doomed", b"1"))

    with pytest.raises(Conflict):
        await store.commit(Put("a", b"1"), Delete("doomed"), Put("held", b"2", expect=0), Put("z", b"1"))

    assert await keys(store, "") == ["doomed", "held"]
    assert await store.commit(Put("b", b"1")) == revision + 1


async def test_list_is_in_key_order_and_only_below_the_prefix(store: Store) -> None:
    for key in ("n/b", "n/a", "m/z", "n/é", "n/Z", "o", "n/a/b", "n", "n/\U0001f600", "n/\uffff"):
        await store.commit(Put(key, b""))

    assert await keys(store, "n/") == ["n/Z", "n/a", "n/a/b", "n/b", "n/é", "n/\uffff", "n/\U0001f600"]


@pytest.mark.parametrize("prefix", ["a%", "a_", "a*", "a?", "a[", "a\\", "a'", 'a"', "a\U0010ffff", "a\ud7ff", "a\x00"])
async def test_special_characters_in_a_prefix_are_literal(store: Store, prefix: str) -> None:
    others = ("a", "aX", "aXX", "A%x", "b")
    await store.commit(*(Put(key, b"") for key in others), Put(prefix + "x", b""), Put(prefix, b""))

    assert await keys(store, prefix) == [prefix, prefix + "x"]


@pytest.mark.parametrize("repeated", [(Put("a", b""), Delete("a")), (Put("", b""),), (Put("\ud800", b""),)])
async def test_commit_with_invalid_keys_is_refused(store: Store, repeated: tuple[Put | Delete, ...]) -> None:
    with pytest.raises(ValueError):
        await store.commit(*repeated)

    assert await store.list("") == []


async def test_one_of_100_parallel_put_if_absent_commits_wins(store: Store) -> None:
    tries = [store.commit(Put("address", b"%d" % n, expect=0), Put(f"owner/{n}", b"")) for n in range(100)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    assert all(isinstance(outcome, Conflict) for n, outcome in enumerate(outcomes) if n not in winners)
    assert await keys(store, "owner/") == [f"owner/{winners[0]}"]
    found = await store.get("address")
    assert found
    assert (found.value, found.revision) == (b"%d" % winners[0], outcomes[winners[0]])


async def test_conflicts_do_not_affect_other_parallel_commits(store: Store) -> None:
    await store.commit(Put("held", b""))
    tries = [store.commit(Put(f"k/{n:02}", b""), Put("held", b"", expect=0 if n % 3 else None)) for n in range(30)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    assert await keys(store, "k/") == [f"k/{n:02}" for n in range(0, 30, 3)]
    revisions = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(set(revisions)) == len(revisions) == 10


async def test_cancelled_caller_leaves_the_commit_complete(store: Store) -> None:
    task = asyncio.create_task(store.commit(Put("a", b""), Put("b", b"")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert await keys(store, "") == ["a", "b"]


async def test_watch_yields_a_snapshot_and_each_later_change(store: Store) -> None:
    first = await store.commit(Put("n/a", b"1"), Put("other", b"1"))
    watch = store.watch("n/")

    assert is_snapshot(await following(watch), first, Entry("n/a", b"1", first))

    second = await store.commit(Put("n/b", b"2"), Delete("n/a"), Put("other", b"2"))
    await store.commit(Put("other", b"3"))
    await store.commit(Delete("n/never"))
    last = await store.commit(Delete("n/b"), Delete("other"))

    assert await following(watch) == Changed((Entry("n/b", b"2", second),), ("n/a",), second)
    assert await following(watch) == Changed((), ("n/b",), last)


async def test_watch_reports_nothing_for_a_conflict(store: Store) -> None:
    await store.commit(Put("a", b""))
    watch = store.watch("")
    await following(watch)

    with pytest.raises(Conflict):
        await store.commit(Put("b", b""), Put("a", b"", expect=0))
    revision = await store.commit(Put("c", b""))

    assert await following(watch) == Changed((Entry("c", b"", revision),), (), revision)


async def test_commits_during_watch_start_are_reported_exactly_once(
    store: Store,
) -> None:
    commits = [asyncio.create_task(store.commit(Put(f"k/{n}", b""))) for n in range(BACKLOG)]
    watch = store.watch("k/")
    seen: list[str] = []
    while len(seen) < BACKLOG:
        notifications = await following(watch)
        seen += [
            entry.key
            for entry in (notifications.entries if isinstance(notifications, Snapshot) else notifications.puts)
        ]
    await asyncio.gather(*commits)

    assert sorted(seen) == [f"k/{n}" for n in range(BACKLOG)]


async def test_slow_watcher_gets_a_fresh_snapshot_and_later_changes(
    store: Store,
) -> None:
    watch, other = store.watch(""), store.watch("")
    await following(watch)
    await following(other)
    for n in range(BACKLOG + 1):
        last = await store.commit(Put("a", b"%d" % n))
        assert (await following(other)).revision == last

    assert is_snapshot(await following(watch), last, Entry("a", b"%d" % BACKLOG, last))

    deleted = await store.commit(Delete("a"))
    assert await following(watch) == Changed((), ("a",), deleted)


async def test_closing_the_store_ends_a_watch_with_unavailable(store: Store) -> None:
    watch = store.watch("")
    await following(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.close()

    with pytest.raises(Error) as caught:
        await asyncio.wait_for(waiting, DEADLINE)

    assert caught.value.kind is Kind.UNAVAILABLE


async def test_closed_store_refuses_every_call(store: Store) -> None:
    await store.close()
    await store.close()

    uses = (store.get("a"), store.list(""), store.commit(Put("a", b"")), anext(store.watch("")))
    for use in uses:
        with pytest.raises(Error) as caught:
            await use
        assert caught.value.kind is Kind.UNAVAILABLE


async def test_close_waits_for_commits_in_progress(store: Store) -> None:
    commits = [asyncio.create_task(store.commit(Put(f"k/{n}", b""))) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()

    revisions = await asyncio.gather(*commits)
    assert len(set(revisions)) == 20


async def test_non_durable_commit_is_visible_and_counted(store: Store) -> None:
    first = await store.commit(Put("intent", b"1"), durable=False)
    second = await store.commit(Put("done", b"2"))
    assert second == first + 1
    assert [entry.key for entry in await store.list("")] == ["done", "intent"]
