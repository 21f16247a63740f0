"""What every store promises, asked of each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Conflict, Delete, Entry, Put, Snapshot, Store
from sandnet.stores.memory import MemoryStore
from sandnet.stores.sqlite.store import SqliteStore

BACKLOG = 8
DEADLINE = 10.0


async def make_memory(directory: Path) -> Store:
    return MemoryStore(backlog=BACKLOG)


async def make_sqlite(directory: Path) -> Store:
    store = SqliteStore(directory / "state" / "sandnet.db", backlog=BACKLOG)
    await store.open()
    return store


@pytest.fixture(params=[make_memory, make_sqlite], ids=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    make: Callable[[Path], Awaitable[Store]] = request.param
    made = await make(tmp_path)
    yield made
    await made.close()


async def keys(store: Store, prefix: str) -> list[str]:
    return [entry.key for entry in await store.list(prefix)]


async def following(watch: AsyncIterator[Snapshot | Changed]) -> Snapshot | Changed:
    return await asyncio.wait_for(anext(watch), DEADLINE)


async def test_given_an_absent_key_when_getting_then_none(store: Store) -> None:
    assert await store.get("networks/a") is None


async def test_given_a_put_when_getting_then_value_and_the_revision_of_its_commit(store: Store) -> None:
    revision = await store.commit(Put("networks/a", b"\x00\xff"))

    assert revision == 1
    assert await store.get("networks/a") == Entry("networks/a", b"\x00\xff", 1)


async def test_given_several_commits_when_one_key_changes_then_only_its_revision_grows(store: Store) -> None:
    await store.commit(Put("a", b"1"), Put("b", b"1"))
    revision = await store.commit(Put("b", b"2"))

    assert await store.list("") == [Entry("a", b"1", 1), Entry("b", b"2", 2)]
    assert revision == 2


async def test_given_a_deleted_key_when_put_again_then_the_revision_still_grows(store: Store) -> None:
    first = await store.commit(Put("a", b"1"))
    second = await store.commit(Delete("a"))
    third = await store.commit(Put("a", b"2", expect=0))

    assert first < second < third


async def test_given_an_absent_key_when_deleting_then_no_error(store: Store) -> None:
    await store.commit(Delete("a"))
    await store.commit(Delete("a", expect=0))

    assert await store.list("") == []


@pytest.mark.parametrize("change", [Put("a", b"new", expect=0), Put("a", b"new", expect=2), Delete("a", expect=2)])
async def test_given_a_wrong_expectation_when_committing_then_conflict_names_the_key(
    store: Store, change: Put | Delete
) -> None:
    await store.commit(Put("a", b"old"))

    with pytest.raises(Conflict) as caught:
        await store.commit(change)

    assert caught.value.key == "a"
    assert await store.get("a") == Entry("a", b"old", 1)


@pytest.mark.parametrize("change", [Put("a", b"new", expect=1), Delete("a", expect=1)])
async def test_given_an_absent_key_when_a_revision_is_expected_then_conflict(
    store: Store, change: Put | Delete
) -> None:
    with pytest.raises(Conflict):
        await store.commit(change)


async def test_given_the_right_revision_when_committing_then_written(store: Store) -> None:
    revision = await store.commit(Put("a", b"1"))
    revision = await store.commit(Put("a", b"2", expect=revision))
    await store.commit(Delete("a", expect=revision))

    assert await store.get("a") is None


async def test_given_one_failed_expectation_when_committing_then_nothing_of_the_commit_is_left(store: Store) -> None:
    revision = await store.commit(Put("held", b"1"), Put("doomed", b"1"))

    with pytest.raises(Conflict):
        await store.commit(Put("a", b"1"), Delete("doomed"), Put("held", b"2", expect=0), Put("z", b"1"))

    assert await keys(store, "") == ["doomed", "held"]
    assert await store.commit(Put("b", b"1")) == revision + 1


async def test_given_keys_in_any_order_when_listing_then_in_key_order_and_below_the_prefix_only(store: Store) -> None:
    for key in ("n/b", "n/a", "m/z", "n/é", "n/Z", "o", "n/a/b", "n", "n/\U0001f600", "n/\uffff"):
        await store.commit(Put(key, b""))

    assert await keys(store, "n/") == ["n/Z", "n/a", "n/a/b", "n/b", "n/é", "n/\uffff", "n/\U0001f600"]


@pytest.mark.parametrize("prefix", ["a%", "a_", "a*", "a?", "a[", "a\\", "a'", 'a"', "a\U0010ffff", "a\ud7ff", "a\x00"])
async def test_given_a_prefix_with_special_characters_when_listing_then_they_stand_for_themselves(
    store: Store, prefix: str
) -> None:
    others = ("a", "aX", "aXX", "A%x", "b")
    await store.commit(*(Put(key, b"") for key in others), Put(prefix + "x", b""), Put(prefix, b""))

    assert await keys(store, prefix) == [prefix, prefix + "x"]


@pytest.mark.parametrize("repeated", [(Put("a", b""), Delete("a")), (Put("", b""),), (Put("\ud800", b""),)])
async def test_given_keys_no_store_can_hold_when_committing_then_refused(
    store: Store, repeated: tuple[Put | Delete, ...]
) -> None:
    with pytest.raises(ValueError):
        await store.commit(*repeated)

    assert await store.list("") == []


async def test_given_100_parallel_commits_on_one_key_when_put_if_absent_then_exactly_one_wins(store: Store) -> None:
    tries = [store.commit(Put("address", b"%d" % n, expect=0), Put(f"owner/{n}", b"")) for n in range(100)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    assert all(isinstance(outcome, Conflict) for n, outcome in enumerate(outcomes) if n not in winners)
    assert await keys(store, "owner/") == [f"owner/{winners[0]}"]
    assert await store.get("address") == Entry("address", b"%d" % winners[0], 1)


async def test_given_parallel_commits_with_conflicts_among_them_when_done_then_the_others_stand(store: Store) -> None:
    await store.commit(Put("held", b""))
    tries = [store.commit(Put(f"k/{n:02}", b""), Put("held", b"", expect=0 if n % 3 else None)) for n in range(30)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    assert await keys(store, "k/") == [f"k/{n:02}" for n in range(0, 30, 3)]
    revisions = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(set(revisions)) == len(revisions) == 10


async def test_given_a_cancelled_caller_when_its_commit_was_accepted_then_the_store_is_whole(store: Store) -> None:
    task = asyncio.create_task(store.commit(Put("a", b""), Put("b", b"")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert await keys(store, "") == ["a", "b"]


async def test_given_a_watch_when_commits_follow_then_snapshot_then_each_change(store: Store) -> None:
    await store.commit(Put("n/a", b"1"), Put("other", b"1"))
    watch = store.watch("n/")

    assert await following(watch) == Snapshot((Entry("n/a", b"1", 1),), 1)

    await store.commit(Put("n/b", b"2"), Delete("n/a"), Put("other", b"2"))
    await store.commit(Put("other", b"3"))
    await store.commit(Delete("n/never"))
    await store.commit(Delete("n/b"), Delete("other"))

    assert await following(watch) == Changed((Entry("n/b", b"2", 2),), ("n/a",), 2)
    assert await following(watch) == Changed((), ("n/b",), 5)


async def test_given_a_conflict_when_watching_then_nothing_is_told(store: Store) -> None:
    await store.commit(Put("a", b""))
    watch = store.watch("")
    await following(watch)

    with pytest.raises(Conflict):
        await store.commit(Put("b", b""), Put("a", b"", expect=0))
    await store.commit(Put("c", b""))

    assert await following(watch) == Changed((Entry("c", b"", 2),), (), 2)


async def test_given_commits_while_the_watch_starts_when_watching_then_none_is_lost_or_told_twice(
    store: Store,
) -> None:
    commits = [asyncio.create_task(store.commit(Put(f"k/{n}", b""))) for n in range(BACKLOG)]
    watch = store.watch("k/")
    seen: list[str] = []
    while len(seen) < BACKLOG:
        news = await following(watch)
        seen += [entry.key for entry in (news.entries if isinstance(news, Snapshot) else news.puts)]
    await asyncio.gather(*commits)

    assert sorted(seen) == [f"k/{n}" for n in range(BACKLOG)]


async def test_given_a_slow_watcher_when_it_falls_behind_then_a_fresh_snapshot_and_changes_after_it(
    store: Store,
) -> None:
    watch = store.watch("")
    await following(watch)
    for n in range(BACKLOG + 1):
        await store.commit(Put("a", b"%d" % n))

    last = BACKLOG + 1
    assert await following(watch) == Snapshot((Entry("a", b"%d" % BACKLOG, last),), last)

    await store.commit(Delete("a"))
    assert await following(watch) == Changed((), ("a",), last + 1)


async def test_given_a_watch_when_the_store_closes_then_it_ends_with_unavailable(store: Store) -> None:
    watch = store.watch("")
    await following(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await store.close()

    with pytest.raises(Error) as caught:
        await asyncio.wait_for(waiting, DEADLINE)

    assert caught.value.kind is Kind.UNAVAILABLE


async def test_given_a_closed_store_when_used_then_everything_refuses(store: Store) -> None:
    await store.close()
    await store.close()

    uses = (store.get("a"), store.list(""), store.commit(Put("a", b"")), anext(store.watch("")))
    for use in uses:
        with pytest.raises(Error) as caught:
            await use
        assert caught.value.kind is Kind.UNAVAILABLE


async def test_given_commits_under_way_when_closing_then_they_finish_first(store: Store) -> None:
    commits = [asyncio.create_task(store.commit(Put(f"k/{n}", b""))) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()

    assert sorted(await asyncio.gather(*commits)) == list(range(1, 21))


async def test_given_a_commit_that_need_not_be_durable_then_it_is_seen_and_counted_like_any(store: Store) -> None:
    first = await store.commit(Put("intent", b"1"), durable=False)
    second = await store.commit(Put("done", b"2"))
    assert second == first + 1
    assert [entry.key for entry in await store.list("")] == ["done", "intent"]
