"""What a store of several hosts promises beyond a store, asked of each implementation through two clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

import pytest

from sandnet.errors import Error, Kind
from sandnet.stores.base import Changed, Delete, Entry, Put, Snapshot
from sandnet.stores.etcd.etcd_store import EtcdStore
from sandnet.stores.etcd.location import EtcdLocation
from sandnet.stores.memory_shared import MemoryCluster, MemorySharedStore
from sandnet.stores.shared import (
    MOST_BYTES,
    MOST_OPERATIONS,
    SHOWN_OF_A_RANGE,
    SHOWN_OF_CHANGES,
    Absent,
    Condition,
    ConditionFailed,
    EmptyRange,
    HasValue,
    LeaseEnded,
    Present,
    SharedStore,
    UnchangedRange,
)
from tests.support.snapshots import is_snapshot

DEADLINE = 30.0


class Hosts(NamedTuple):
    """Two clients of one store."""

    a: SharedStore
    b: SharedStore


@pytest.fixture(params=["memory", "etcd"])
async def hosts(request: pytest.FixtureRequest, etcd_location: Callable[[], EtcdLocation]) -> AsyncIterator[Hosts]:
    if request.param == "memory":
        cluster = MemoryCluster()
        made = Hosts(MemorySharedStore(cluster), MemorySharedStore(cluster))
    else:
        location = etcd_location()
        made = Hosts(EtcdStore(location, DEADLINE), EtcdStore(location, DEADLINE))
    yield made
    await made.a.close()
    await made.b.close()
    if request.param == "memory":
        cluster.close()


async def following(watch: AsyncIterator[Snapshot | Changed]) -> Snapshot | Changed:
    return await asyncio.wait_for(anext(watch), DEADLINE)


async def test_one_host_reads_what_another_wrote(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put("network/n", b"1")])

    assert await hosts.b.get("network/n") == Entry("network/n", b"1", revision)


async def test_watch_yields_changes_of_another_host_by_revision(hosts: Hosts) -> None:
    first = await hosts.a.transact([Put("network/n", b"1")])
    watch = hosts.b.watch("network/")
    assert is_snapshot(await following(watch), first, Entry("network/n", b"1", first))

    second = await hosts.a.transact([Put("network/m", b"2"), Delete("network/n"), Put("claim/m", b"")])

    assert await following(watch) == Changed((Entry("network/m", b"2", second),), ("network/n",), second)


async def test_all_conditions_that_hold_let_a_transaction_pass(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put("a", b"1"), Put("range", b"")])
    conditions: list[Condition] = [
        Present("a"),
        Present("a", revision),
        HasValue("a", b"1"),
        Absent("b"),
        EmptyRange("range/"),
        EmptyRange("b"),
        UnchangedRange("a", revision),
        UnchangedRange("", revision),
        UnchangedRange("range/", 0),
    ]

    assert await hosts.b.transact([Put("b", b"2")], conditions) == revision + 1


@pytest.mark.parametrize(
    "condition",
    [
        Present("absent"),
        Present("absent", 1),
        Present("a", 99),
        HasValue("absent", b""),
        HasValue("a", b"2"),
        HasValue("a", b""),
        Absent("a"),
        EmptyRange("a"),
        EmptyRange("range/"),
        EmptyRange(""),
        UnchangedRange("a", 0),
        UnchangedRange("range/", 0),
        UnchangedRange("", 0),
    ],
    ids=str,
)
async def test_any_condition_that_fails_refuses_everything(hosts: Hosts, condition: Condition) -> None:
    revision = await hosts.a.transact([Put("a", b"1"), Put("range/x", b"")])

    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact([Put("b", b""), Delete("a")], [Present("a"), condition])

    assert caught.value.revision == revision
    assert caught.value.at("a") == Entry("a", b"1", revision)
    assert caught.value.at("absent") is None
    assert [entry.key for entry in await hosts.a.list("")] == ["a", "range/x"]


async def test_refusal_shows_the_first_entries_of_a_range(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put(f"endpoint/n/{n}", b"%d" % n) for n in range(9)])

    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact([Delete("network/n")], [EmptyRange("endpoint/n/"), Absent("endpoint/n/8")])

    shown = [*range(SHOWN_OF_A_RANGE), 8]
    assert caught.value.found == tuple(Entry(f"endpoint/n/{n}", b"%d" % n, revision) for n in shown)


@pytest.mark.parametrize("change", [Put("claim/a", b"2"), Put("claim/c", b"2")], ids=["written", "created"])
async def test_later_change_of_a_range_is_refused_and_shown(hosts: Hosts, change: Put) -> None:
    seen = await hosts.a.transact([Put("claim/a", b"1"), Put("claim/b", b"1"), Put("claims", b"1")])
    later = await hosts.a.transact([change, Put("claims", b"2")])

    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact([Put("x", b"")], [UnchangedRange("claim/", seen)])

    assert caught.value.found == (Entry(change.key, b"2", later),)
    assert await hosts.b.transact([Put("x", b"")], [UnchangedRange("claim/", later)]) == later + 1


async def test_deletion_is_no_change_of_a_range(hosts: Hosts) -> None:
    seen = await hosts.a.transact([Put("claim/a", b"1"), Put("claim/b", b"1")])
    later = await hosts.a.transact([Delete("claim/a")])

    assert await hosts.b.transact([Put("x", b"")], [UnchangedRange("claim/", seen)]) == later + 1


async def test_refusal_shows_the_first_later_changes_of_a_range(hosts: Hosts) -> None:
    await hosts.a.transact([Put(f"claim/{n:03}", b"") for n in range(0, MOST_OPERATIONS, 2)])
    seen = await hosts.a.transact([Put("other", b"")])
    await hosts.a.transact([Put(f"claim/{n:03}", b"") for n in range(1, MOST_OPERATIONS, 2)])
    await hosts.a.transact([Put(f"claim/{n:03}", b"") for n in range(MOST_OPERATIONS, MOST_OPERATIONS + 8)])

    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact([Put("x", b"")], [UnchangedRange("claim/", seen)])

    shown = [*range(1, MOST_OPERATIONS, 2), *range(MOST_OPERATIONS, MOST_OPERATIONS + 8)][:SHOWN_OF_CHANGES]
    assert [entry.key for entry in caught.value.found] == [f"claim/{n:03}" for n in shown]


async def test_expectations_of_changes_are_conditions_too(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put("a", b"1")])

    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact([Put("a", b"2", expect=0)])

    assert caught.value.found == (Entry("a", b"1", revision),)


async def test_transaction_without_changes_only_compares(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put("a", b"1")])

    assert await hosts.b.transact([], [Present("a", revision)]) == revision
    with pytest.raises(ConditionFailed):
        await hosts.b.transact([], [Absent("a")])


async def test_transaction_that_changes_nothing_keeps_the_revision(hosts: Hosts) -> None:
    revision = await hosts.a.transact([Put("a", b"1")])

    assert await hosts.a.transact([Delete("absent")]) == revision


async def test_largest_transaction_is_applied_and_refused_whole(hosts: Hosts) -> None:
    changes = [Put(f"k/{n:03}", bytes(1000)) for n in range(MOST_OPERATIONS)]
    conditions = [Absent(put.key) for put in changes]

    revision = await hosts.a.transact(changes, conditions)
    with pytest.raises(ConditionFailed) as caught:
        await hosts.b.transact(changes, conditions)

    assert caught.value.found == tuple(Entry(put.key, put.value, revision) for put in changes)


@pytest.mark.parametrize(
    ("changes", "conditions"),
    [
        ([Put(f"k/{n}", b"") for n in range(MOST_OPERATIONS + 1)], []),
        ([], [Absent(f"k/{n}") for n in range(MOST_OPERATIONS + 1)]),
        ([Put("a", bytes(MOST_BYTES))], []),
    ],
    ids=["changes", "conditions", "bytes"],
)
async def test_transaction_beyond_the_limits_says_so(
    hosts: Hosts, changes: list[Put], conditions: list[Condition]
) -> None:
    with pytest.raises(Error) as caught:
        await hosts.a.transact(changes, conditions)

    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "transaction_too_large")


async def test_read_returns_keys_in_order_at_one_revision(hosts: Hosts) -> None:
    first = await hosts.a.transact([Put("b", b"1"), Put("a", b"1"), Put("c", b"1")])
    second = await hosts.a.transact([Put("c", b"2")])

    found = await hosts.b.read(["c", "absent", "a", "c"])

    assert is_snapshot(found, second, Entry("a", b"1", first), Entry("c", b"2", second))
    assert is_snapshot(await hosts.b.read([]), second)


async def test_read_of_more_keys_than_a_transaction_takes(hosts: Hosts) -> None:
    keys = [f"k/{n:03}" for n in range(3 * MOST_OPERATIONS)]
    for start in range(0, len(keys), MOST_OPERATIONS):
        last = await hosts.a.transact([Put(key, b"") for key in keys[start : start + MOST_OPERATIONS]])

    found = await hosts.b.read(keys)

    assert [entry.key for entry in found.entries] == keys
    assert found.revision == last


async def test_snapshot_returns_a_prefix_with_its_revision(hosts: Hosts) -> None:
    await hosts.a.transact([Put("n/b", b""), Put("n/a", b""), Put("n", b""), Put("o", b"")])
    last = await hosts.a.transact([Put("o", b"2")])

    found = await hosts.b.snapshot("n/")

    assert [entry.key for entry in found.entries] == ["n/a", "n/b"]
    assert found.revision == last


async def test_one_of_many_claims_of_two_hosts_wins(hosts: Hosts) -> None:
    claims = [
        host.transact([Put("claim/x", b"%d" % n), Put(f"record/{n}", b"")], [Absent("claim/x")])
        for n, host in enumerate((hosts.a, hosts.b) * 20)
    ]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)

    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    found = Entry("claim/x", b"%d" % winners[0], outcomes[winners[0]])  # type: ignore[arg-type]
    losers = [outcome for outcome in outcomes if isinstance(outcome, ConditionFailed)]
    assert len(losers) == 39
    assert all(loser.found == (found,) for loser in losers)
    assert [entry.key for entry in await hosts.b.list("record/")] == [f"record/{winners[0]}"]


async def test_ended_lease_deletes_its_keys_in_one_commit(hosts: Hosts) -> None:
    lease = await hosts.a.grant(60)
    await hosts.a.transact([Put("alive/a", b"1"), Put("x", b""), Put("y", b"")], leases={"alive/a": lease, "x": lease})
    watch = hosts.b.watch("")
    await following(watch)

    await hosts.a.revoke(lease)

    change = await following(watch)
    assert isinstance(change, Changed)
    assert sorted(change.deletes) == ["alive/a", "x"]
    assert [entry.key for entry in await hosts.b.list("")] == ["y"]


async def test_lease_that_is_not_kept_alive_expires(hosts: Hosts) -> None:
    lease = await hosts.a.grant(1)
    await hosts.a.transact([Put("alive/a", b"1")], leases={"alive/a": lease})
    watch = hosts.b.watch("")
    await following(watch)

    change = await following(watch)

    assert isinstance(change, Changed)
    assert change.deletes == ("alive/a",)
    with pytest.raises(LeaseEnded):
        await hosts.a.keep_alive(lease)


async def test_lease_that_is_kept_alive_does_not_expire(hosts: Hosts) -> None:
    """One whose keeper stands still for longer than it lasts does end, so there are further attempts."""
    for _ in range(2):
        with suppress(LeaseEnded):
            await _keep_alive(hosts)
            return
    await _keep_alive(hosts)


async def _keep_alive(hosts: Hosts) -> None:
    lease = await hosts.a.grant(2)
    await hosts.a.transact([Put("alive/a", b"1")], leases={"alive/a": lease})
    started = time.monotonic()

    while time.monotonic() - started < 4:
        assert 0 < await hosts.a.keep_alive(lease) <= 2
        await asyncio.sleep(0.5)

    found = await hosts.b.get("alive/a")
    await hosts.a.keep_alive(lease)
    assert found


async def test_put_under_an_ended_lease_is_refused_whole(hosts: Hosts) -> None:
    lease = await hosts.a.grant(60)
    await hosts.a.revoke(lease)

    with pytest.raises(LeaseEnded) as caught:
        await hosts.a.transact([Put("a", b""), Put("alive/a", b"")], leases={"alive/a": lease})

    assert caught.value.lease == lease
    assert await hosts.b.list("") == []


async def test_revoking_an_ended_lease_is_no_error(hosts: Hosts) -> None:
    lease = await hosts.a.grant(60)
    await hosts.a.revoke(lease)
    await hosts.b.revoke(lease)


async def test_put_without_a_lease_outlives_the_former_one(hosts: Hosts) -> None:
    lease = await hosts.a.grant(60)
    await hosts.a.transact([Put("a", b"1")], leases={"a": lease})
    await hosts.b.transact([Put("a", b"2")])

    await hosts.a.revoke(lease)

    assert await hosts.b.get("a")


async def test_lease_for_a_key_that_is_not_put_is_a_mistake(hosts: Hosts) -> None:
    with pytest.raises(ValueError):
        await hosts.a.transact([Delete("a")], leases={"a": 1})


async def test_each_answer_is_a_contact(hosts: Hosts) -> None:
    before = time.monotonic()
    await hosts.a.get("a")

    assert before <= hosts.a.last_contact <= time.monotonic()


async def test_cancelled_transaction_is_completed(hosts: Hosts) -> None:
    task = asyncio.create_task(hosts.a.transact([Put("a", b"")], [Absent("b")]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert await hosts.b.get("a")
