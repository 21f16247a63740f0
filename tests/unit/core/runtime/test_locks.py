"""Locks by name."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.core.runtime.locks import Locks
from sandnet.errors import Error, Kind


async def holding(locks: Locks, order: list[str], label: str, *names: str) -> None:
    """Hold some locks for a moment, and note that."""
    async with locks.hold(*names):
        order.append(f"{label} begins")
        await asyncio.sleep(0)
        order.append(f"{label} ends")


async def test_holders_of_one_name_follow_each_other_in_order() -> None:
    locks, order = Locks(), list[str]()
    await asyncio.gather(*(holding(locks, order, label, "a") for label in "xyz"))
    assert order == [f"{label} {what}" for label in "xyz" for what in ("begins", "ends")]


async def test_holders_of_different_names_do_not_wait() -> None:
    locks, order = Locks(), list[str]()
    await asyncio.gather(holding(locks, order, "x", "a"), holding(locks, order, "y", "b"))
    assert order == ["x begins", "y begins", "x ends", "y ends"]


async def test_names_in_any_order_and_twice_do_not_block_each_other() -> None:
    locks, order = Locks(), list[str]()
    async with asyncio.timeout(10):
        await asyncio.gather(
            *(holding(locks, order, "x", "a", "b", "a") for _ in range(20)),
            *(holding(locks, order, "y", "b", "a") for _ in range(20)),
        )
    assert len(order) == 80


async def test_lock_is_dropped_with_its_last_holder() -> None:
    locks = Locks()
    await asyncio.gather(*(holding(locks, [], "x", "a", "b") for _ in range(3)))
    assert not locks._locks


async def test_waiter_is_refused_at_its_deadline_and_leaves_no_trace() -> None:
    locks = Locks(deadline=0.01)
    async with locks.hold("a"):
        with pytest.raises(Error, match="a, b has been busy for") as refused:
            await holding(locks, [], "x", "b", "a")
        assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, "busy")
        assert [*locks._locks] == ["a"]
    assert not locks._locks


async def test_shorter_wait_than_the_deadline_is_respected() -> None:
    locks = Locks(deadline=60)
    async with locks.hold("a"):
        with pytest.raises(Error, match="busy"):
            async with asyncio.timeout(10), locks.hold("a", max_wait=0.01):
                pass


async def test_timeout_of_the_block_is_not_taken_for_a_busy_lock() -> None:
    with pytest.raises(TimeoutError):
        async with Locks().hold("a"):
            raise TimeoutError


async def test_cancelled_waiter_lets_the_next_one_in() -> None:
    locks, order = Locks(), list[str]()
    async with locks.hold("a"):
        first = asyncio.create_task(holding(locks, order, "x", "a"))
        second = asyncio.create_task(holding(locks, order, "y", "a"))
        await asyncio.wait([first, second], timeout=0)
        first.cancel()
        await asyncio.wait([first])
    await second
    assert order == ["y begins", "y ends"]
    assert not locks._locks


async def test_failing_holder_releases_all_locks() -> None:
    locks = Locks()
    with pytest.raises(ValueError, match="on purpose"):
        async with locks.hold("a", "b"):
            raise ValueError("on purpose")
    assert not locks._locks
