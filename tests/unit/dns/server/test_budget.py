"""Slices of time and shares of places: who takes much leaves enough."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from sandnet.dns.server import budget
from sandnet.dns.server.budget import SLICE, Budget
from sandnet.dns.server.fair_share import Shares


class Clock:
    """Time that passes when work is done."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget, "clock", made)
    return made


async def test_work_beyond_a_slice_is_deferred(clock: Clock) -> None:
    mine, other = Budget(), Budget()
    done: list[int] = []

    def work(number: int) -> None:
        clock.now += SLICE / 2
        done.append(number)

    for number in range(10):
        mine.run(partial(work, number))
    assert done == [0, 1]
    assert mine.begin() == 0.0
    assert other.begin() > clock.now  # another asker is not concerned
    turns = 0
    while len(done) < 10:
        before = len(done)
        await asyncio.sleep(0)
        assert len(done) - before <= 2
        turns += 1
    assert done == list(range(10))  # in their order
    assert turns >= 4


async def test_overrunning_work_is_charged_to_the_following_slice(clock: Clock) -> None:
    mine = Budget()
    assert mine.begin()
    clock.now += 1.9 * SLICE
    mine.end()
    turns = 0
    while not mine.begin():
        await asyncio.sleep(0)
        turns += 1
    assert 1 <= turns <= 2
    assert mine.until - clock.now < SLICE / 2


async def test_work_within_other_work_shares_its_slice(clock: Clock) -> None:
    mine, done = Budget(), list[int]()

    def work(number: int) -> None:
        clock.now += SLICE / 4
        done.append(number)
        if number < 40:
            mine.run(partial(work, number + 1))

    mine.run(partial(work, 1))
    assert len(done) <= 5
    while len(done) < 40:
        before = len(done)
        await asyncio.sleep(0)
        assert len(done) - before <= 5
    assert done == list(range(1, 41))


async def test_charge_during_other_work_is_not_lost(clock: Clock) -> None:
    mine = Budget()
    mine.run(lambda: mine.charge(3 * SLICE))
    turns = 0
    while not mine.begin():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3


async def test_work_charged_from_elsewhere_defers_later_work(clock: Clock) -> None:
    mine, done = Budget(), list[int]()
    mine.charge(3 * SLICE)
    mine.run(lambda: done.append(1))
    assert done == []
    turns = 0
    while not done:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3


async def test_stall_of_the_machine_costs_two_iterations_at_most(clock: Clock) -> None:
    mine = Budget()
    assert mine.begin()
    clock.now += 1000 * SLICE
    mine.end()
    for _ in range(3):
        await asyncio.sleep(0)
    assert mine.begin()


async def test_charges_are_capped(clock: Clock) -> None:
    mine = Budget()
    mine.charge(1000 * SLICE)
    for _ in range(12):
        await asyncio.sleep(0)
    assert mine.begin()


async def test_failing_work_does_not_stop_the_rest(clock: Clock) -> None:
    mine = Budget()
    done: list[bool] = []

    def fail() -> None:
        clock.now += SLICE
        raise OSError

    with pytest.raises(OSError):
        mine.run(fail)
    mine.run(lambda: done.append(True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert done


def test_greedy_client_leaves_shares_for_others() -> None:
    places = Shares(1000, 1000)
    held = [0] * 9
    for number in range(9):
        while places.take(held[number]):
            held[number] += 1
    assert all(held)
    assert held[0] == 500
    places = Shares(1000, 100)
    held = [0] * 50
    for _ in range(200):
        for number in range(50):
            held[number] += places.take(held[number])
    assert max(held) - min(held) <= 1
    assert places.taken == sum(held) < 1000
    assert places.take(0)


def test_returned_share_can_be_taken_again() -> None:
    places = Shares(10, 1)
    assert places.take(0)
    assert not places.take(1)
    places.release()
    assert places.take(0)
