"""A store on etcd while members are killed, hang, come back, forget, or are full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from sandnet.errors import Error
from sandnet.stores.base import Delete, Entry, Put, Snapshot
from sandnet.stores.etcd.etcd_store import EtcdStore
from sandnet.stores.etcd.feed import Feed
from sandnet.stores.etcd.member import MOST_CONNECTIONS
from sandnet.stores.shared import Absent, ConditionFailed, OutcomeUnknown, Present
from tests.support.conditions import until
from tests.support.etcd import EtcdCluster, missing
from tests.support.time_limits import TRIES, Ticker

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PATIENT = 40.0
DEADLINE = 1.5
LATE = 1.0
"""Seconds, without those in which the machine stands still, that an answer may be later than its deadline."""
LONG = 10.0
"""A deadline that no request misses, where it is not what a test is about."""


@pytest.fixture
def three() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


@pytest.fixture
def one() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


@asynccontextmanager
async def opened(
    cluster: EtcdCluster, members: list[int] | None = None, deadline: float = DEADLINE
) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(cluster.location(members=members), deadline)
    try:
        yield store
    finally:
        await store.close()


class View:
    """What a watch has shown so far."""

    def __init__(self, store: EtcdStore) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.snapshots = 0
        self._task = asyncio.create_task(self._follow(store))

    async def _follow(self, store: EtcdStore) -> None:
        async for notification in store.watch(""):
            if isinstance(notification, Snapshot):
                self.snapshots += 1
                self.entries = {entry.key: entry for entry in notification.entries}
            else:
                assert notification.revision > self.revision, "a revision came twice, or too late"
                self.entries.update((entry.key, entry) for entry in notification.puts)
                for key in notification.deletes:
                    self.entries.pop(key)
            self.revision = notification.revision

    async def reaches(self, revision: int) -> None:
        await until(lambda: self.revision >= revision, PATIENT)

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def viewed(store: EtcdStore) -> AsyncIterator[View]:
    view = View(store)
    try:
        await until(lambda: view.snapshots, PATIENT)
        yield view
    finally:
        await view.stop()


class Counter:
    """A writer that increments a number, each time comparing the revision that it knows."""

    def __init__(self, store: EtcdStore) -> None:
        self.acknowledged = self.unknown = 0
        self.codes: set[str] = set()
        """Of the writes that were not applied."""
        self.gap = 0.0
        """The longest time between two acknowledged writes, without that in which the machine stands still."""
        self._store = store
        self._running = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with Ticker() as ticker:
            await self._write(ticker)

    async def _write(self, ticker: Ticker) -> None:
        value = revision = 0
        last = ticker.seconds
        while self._running:
            try:
                change = Put("counter", b"%d" % (value + 1), expect=revision)
                revision = await self._store.transact([change, Put(f"n/{value + 1}", b"")], [Absent(f"n/{value + 1}")])
            except OutcomeUnknown:
                self.unknown += 1
                value, revision = await self._fence()
            except Error as failure:
                self.codes.add(failure.code)
            else:
                value += 1
                self.acknowledged += 1
                self.gap = max(self.gap, ticker.seconds - last)
                last = ticker.seconds

    async def _fence(self) -> tuple[int, int]:
        """Write until it is applied, so that what is still on its way is refused; return what is there then."""
        while True:
            with suppress(Error):
                entry = await self._store.get("counter")
                value = entry.value if entry else b"0"
                expect = entry.revision if entry else 0
                with suppress(ConditionFailed):
                    return int(value), await self._store.transact([Put("counter", value, expect)], repeatable=True)

    async def stop(self) -> None:
        self._running = False
        await asyncio.wait_for(self._task, PATIENT)


async def timed(request: Awaitable[object]) -> tuple[float, Error | None]:
    """Return how long a request took, without the time in which the machine stood still, and how it failed."""
    async with Ticker() as ticker:
        try:
            await request
        except Error as failure:
            return ticker.seconds, failure
        return ticker.seconds, None


async def eventually_written(store: EtcdStore, key: str) -> int:
    """Return the revision of a write that is repeated until it is acknowledged."""
    end = time.monotonic() + PATIENT
    while True:
        try:
            return await store.transact([Put(key, b"")], repeatable=True)
        except Error:
            assert time.monotonic() < end


async def test_killed_leader_loses_no_acknowledged_write(three: EtcdCluster) -> None:
    async with opened(three) as store, viewed(store) as view:
        counter = Counter(store)
        await until(lambda: counter.acknowledged > 50)
        leader = three.members[three.leader()]
        leader.kill()
        acknowledged = counter.acknowledged
        await until(lambda: counter.acknowledged > acknowledged + 50, PATIENT)
        leader.start()
        await asyncio.to_thread(three.wait)
        await counter.stop()

        entry = await store.get("counter")
        assert entry
        assert counter.acknowledged <= int(entry.value) <= counter.acknowledged + counter.unknown
        numbers = [int(found.key[2:]) for found in await store.list("n/")]
        assert sorted(numbers) == list(range(1, int(entry.value) + 1))
        await view.reaches(entry.revision)
        assert view.entries["counter"] == entry
        assert len(view.entries) == int(entry.value) + 1
        assert counter.codes <= {"store_unavailable"}
        assert counter.gap < 6


async def test_member_that_hangs_is_left_for_another(three: EtcdCluster) -> None:
    leader = three.members[three.leader()]
    async with opened(three) as store:
        if leader.name.endswith(store._client.member.name):
            store._client.move_on(store._client.member)  # an election may take longer than the deadline
        async with viewed(store) as view:
            await view.reaches(await eventually_written(store, "a"))
            for _ in range(TRIES):  # a machine that stands still lets the deadline pass
                current = next(m for m in three.members if m.name.endswith(store._client.member.name))
                current.pause()
                try:
                    seconds, failure = await timed(store.get("a"))
                    last = await eventually_written(store, "b")
                    await view.reaches(last)
                finally:
                    current.resume()
                if failure is None:
                    break

            assert failure is None, failure
            assert seconds < DEADLINE + LATE
            assert view.entries.keys() == {"a", "b"}


async def test_write_to_a_member_that_hangs_has_an_unknown_outcome(one: EtcdCluster) -> None:
    async with opened(one) as store:
        await eventually_written(store, "a")
        one.members[0].pause()
        try:
            seconds, failure = await timed(store.transact([Put("b", b"")], [Absent("b")]))
            read_seconds, read_failure = await timed(store.get("a"))
        finally:
            one.members[0].resume()

        assert isinstance(failure, OutcomeUnknown)
        assert seconds < DEADLINE + LATE
        assert read_failure
        assert read_failure.code == "store_unavailable"
        assert read_seconds < DEADLINE + LATE
        assert await store.transact([Put("c", b"")], [Absent("c")])


async def test_write_that_waited_too_long_is_not_sent(one: EtcdCluster) -> None:
    async with opened(one) as store:
        await eventually_written(store, "a")
        one.members[0].pause()
        try:
            writes = [asyncio.ensure_future(store.transact([Put(f"b/{n}", b"")])) for n in range(MOST_CONNECTIONS)]
            await asyncio.sleep(0.1)  # the others still have some time when the first have none left
            writes += [asyncio.ensure_future(store.transact([Put(f"c/{n}", b"")])) for n in range(5)]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        finally:
            one.members[0].resume()

        unknown = [outcome for outcome in outcomes if isinstance(outcome, OutcomeUnknown)]
        refused = [o for o in outcomes if isinstance(o, Error) and not isinstance(o, OutcomeUnknown)]
        assert len(unknown) <= MOST_CONNECTIONS, outcomes
        assert len(refused) >= 5, outcomes


async def test_lease_is_renewed_beside_many_writes(one: EtcdCluster) -> None:
    async with opened(one) as store:
        lease = await store.grant(60)
        member = store._client.member
        for _ in range(MOST_CONNECTIONS):
            await member._slots.acquire()  # as many requests are under way as there may be

        _, failure = await timed(store.transact([Put("a", b"")]))

        assert failure
        assert await store.keep_alive(lease) > 0


async def test_member_without_majority_refuses_and_catches_up(three: EtcdCluster) -> None:
    leader = three.leader()
    alone, *others = [*range(leader, 3), *range(leader)]
    async with opened(three, [alone]) as cut_off, opened(three, others) as other, viewed(cut_off) as view:
        await view.reaches(await eventually_written(other, "a"))
        for number in others:
            three.members[number].pause()
        try:
            await until(lambda: cut_off.problems(), PATIENT)  # the watch has ended
            codes: list[str] = []
            while "store_unavailable" not in codes:  # the member refuses before it does anything
                seconds, failure = await timed(cut_off.transact([Put("b", b"")]))
                assert failure
                assert seconds < DEADLINE + LATE
                codes.append(failure.code)
                assert len(codes) < 10
        finally:
            for number in others:
                three.members[number].resume()
        last = await eventually_written(other, "c")
        await view.reaches(last)
        assert view.entries.keys() >= {"a", "c"}
        await until(lambda: not cut_off.problems(), PATIENT)  # the last one is about the member itself


async def test_lost_member_is_named_while_the_others_answer(three: EtcdCluster) -> None:
    async with opened(three) as store, viewed(store):
        lost = three.members[(three.leader() + 1) % 3]
        lost.kill()
        named = lost.name.removeprefix("http://")
        await until(lambda: any(f"member {named}" in problem for problem in store.problems()), PATIENT)
        lost.start()
        await until(lambda: not store.problems(), PATIENT)


async def test_watch_goes_on_when_all_members_come_back(three: EtcdCluster) -> None:
    async with opened(three) as store, viewed(store) as view:
        await eventually_written(store, "a")
        await eventually_written(store, "b")
        for member in three.members:
            member.kill()
        outcomes = [
            await timed(request)
            for request in (store.get("a"), store.transact([Put("x", b"")]), store.keep_alive(7), store.grant(9))
        ]
        assert [failure and failure.code for _, failure in outcomes] == ["store_unavailable"] * 4
        assert all(seconds < DEADLINE + LATE for seconds, _ in outcomes)
        before = store.last_contact

        for member in three.members:
            member.start()
        await asyncio.to_thread(three.wait)
        async with opened(three, deadline=LONG) as other:
            last = await other.transact([Put("c", b""), Delete("a")])
        await view.reaches(last)

        assert view.entries.keys() == {"b", "c"}
        assert view.snapshots > 1
        assert store.last_contact > before
        await until(lambda: not store.problems() or store.last_contact > before)


async def test_compacted_watch_begins_with_a_snapshot(one: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(one, deadline=LONG) as store:
        for n in range(5):
            last = await store.transact([Put("a", b"%d" % n)])
        one.call("kv/compaction", {"revision": last})
        original, calls = Feed._probe, []

        async def late(feed: Feed, *args: object) -> int:
            calls.append(1)
            revision = await original(feed, *args)  # type: ignore[arg-type]
            return 1 if len(calls) == 1 else revision

        monkeypatch.setattr(Feed, "_probe", late)
        async with viewed(store) as view:
            await view.reaches(await store.transact([Put("b", b"")]))

        assert len(calls) > 1
        assert view.entries.keys() == {"a", "b"}


async def test_restored_cluster_leads_to_a_snapshot(one: EtcdCluster) -> None:
    async with opened(one, deadline=LONG) as store, viewed(store) as view:
        await view.reaches(await store.transact([Put("a", b"old")]))
        one.members[0].kill()
        one.back_up()
        one.members[0].start()
        await asyncio.to_thread(one.wait)
        for n in range(20):
            last = await store.transact([Put(f"lost/{n}", b"")])
        await view.reaches(last)

        one.members[0].kill()
        one.restore()
        one.members[0].start()
        await asyncio.to_thread(one.wait)
        revision = await eventually_written(store, "b")

        assert revision < last
        await until(lambda: view.entries.keys() == {"a", "b"}, PATIENT)
        await until(lambda: view.revision == revision)


async def test_lower_revision_in_an_answer_restarts_the_watch(one: EtcdCluster) -> None:
    async with opened(one, deadline=LONG) as store, viewed(store) as view:
        await view.reaches(await store.transact([Put("a", b"")]))
        store._client._note(10**6, 0)  # as if an answer had come before the cluster was restored

        await store.get("a")

        await until(lambda: view.snapshots == 2, PATIENT)


async def test_full_store_deletes_reads_and_renews() -> None:
    with EtcdCluster(options=[f"--quota-backend-bytes={2 << 20}"]) as cluster:
        async with opened(cluster, deadline=LONG) as store:
            lease = await store.grant(60)
            revision = await store.transact([Put("alive", b"")], leases={"alive": lease})
            failure = None
            for n in range(100):
                _, failure = await timed(store.transact([Put(f"fill/{n}", bytes(100_000))]))
                if failure:
                    break

            assert failure
            assert (failure.code, isinstance(failure, OutcomeUnknown)) == ("store_full", False)
            _, refused = await timed(store.grant(60))
            assert refused
            assert refused.code == "store_full"
            assert await store.keep_alive(lease) > 0
            assert await store.get("fill/0")
            assert await store.transact([Delete("fill/0")], [Present("alive", revision)]) > revision
            with pytest.raises(ConditionFailed):
                await store.transact([Delete("fill/1")], [Absent("alive")])
            await store.revoke(lease)
            assert await store.get("alive") is None


async def test_lost_lease_is_known_after_the_members_come_back(one: EtcdCluster) -> None:
    async with opened(one, deadline=LONG) as store:
        lease = await store.grant(60)
        await store.transact([Put("alive", b"")], leases={"alive": lease})
        one.members[0].kill()
        one.members[0].start()
        await asyncio.to_thread(one.wait)

        assert await store.keep_alive(lease) > 0
        assert await store.get("alive")
