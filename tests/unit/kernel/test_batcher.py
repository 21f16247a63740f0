"""Work that is gathered for a moment and done together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Set

import pytest

from sandnet.kernel.batcher import LONGEST_PAUSE, Batcher


class Work:
    """Notes what it is given, and takes until it is let go on."""

    def __init__(self) -> None:
        self.done: list[set[str]] = []
        self.may_end = asyncio.Event()
        self.begun = asyncio.Event()
        self.rounds = Batcher[str](self, pause=0)

    async def __call__(self, things: Set[str]) -> None:
        self.begun.set()
        await self.may_end.wait()
        self.done.append({*things})


async def test_one_round_handles_all_pending_items() -> None:
    work = Work()
    work.may_end.set()
    work.rounds.add(["a"])
    work.rounds.add(["b", "a"])
    assert work.rounds.pending == {"a", "b"}
    await work.rounds.wait()
    assert work.done == [{"a", "b"}]
    assert work.rounds.pending == set()


async def test_item_added_during_a_round_goes_to_the_next_one() -> None:
    work = Work()
    work.rounds.add(["a"])
    await work.begun.wait()
    work.rounds.add(["a", "b"])
    assert work.rounds.pending == {"a", "b"}
    work.may_end.set()
    await work.rounds.wait()
    assert work.done == [{"a"}, {"a", "b"}]


async def test_only_callers_concerned_by_a_round_wait_for_it() -> None:
    work = Work()
    work.rounds.add(["a"])
    await work.begun.wait()
    await work.rounds.wait(lambda pending: "b" in pending)
    waiting = asyncio.create_task(work.rounds.wait(lambda pending: "a" in pending))
    await asyncio.sleep(0)
    assert not waiting.done()
    work.may_end.set()
    await waiting
    assert work.done == [{"a"}]


async def test_failed_round_does_not_stop_the_next_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[Set[str]] = []

    async def work(things: Set[str]) -> None:
        asked.append({*things})
        if len(asked) == 1:
            rounds.add(["b"])
            raise RuntimeError("unforeseen")

    rounds = Batcher[str](work, pause=0)
    rounds.add(["a"])
    await asyncio.wait_for(rounds.wait(), 20)
    assert asked == [{"a"}, {"b"}]
    assert "unforeseen" in caplog.text


async def test_empty_request_starts_no_round() -> None:
    work = Work()
    work.rounds.add([])
    await work.rounds.wait()
    assert not work.begun.is_set()


async def test_caller_that_waits_ends_the_gathering() -> None:
    done: list[set[str]] = []

    async def work(items: Set[str]) -> None:
        done.append({*items})

    rounds = Batcher[str](work, pause=3600)
    rounds.add(["a", "b"])
    await asyncio.wait_for(rounds.wait(lambda pending: "a" in pending), 20)
    assert done == [{"a", "b"}]


async def test_long_batches_are_followed_by_longer_pauses() -> None:
    begins: list[float] = []
    ends: list[float] = []

    async def work(_: Set[str]) -> None:
        begins.append(time.monotonic())
        await asyncio.sleep(0.02)
        if len(begins) == 1:
            rounds.add(["b"])
        ends.append(time.monotonic())

    rounds = Batcher[str](work, pause=0, share=0.1)
    rounds.add(["a"])
    assert rounds._task
    await asyncio.wait_for(rounds._task, 20)
    assert begins[1] - ends[0] >= min(8 * (ends[0] - begins[0]), 0.9 * LONGEST_PAUSE)
