"""The queue of objects to bring into line: each at a time, again after a failure, and never in a spin."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.core.replication import work_queue
from sandnet.core.replication.work_queue import WorkQueue
from sandnet.errors import Error, Kind
from tests.support.conditions import until


async def test_failed_object_is_tried_again_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.001)
    attempts: list[str] = []

    async def work(key: str) -> None:
        attempts.append(key)
        if len(attempts) < 3:
            raise Error(Kind.UNAVAILABLE, "not now")

    queue = WorkQueue(work)
    queue.add(["a"])
    running = asyncio.create_task(queue.run())
    await until(lambda: len(attempts) == 3 and not queue.problems)
    running.cancel()


async def test_lasting_failure_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(work_queue, "LONGEST_DELAY", 0.003)
    attempts = 0

    async def work(key: str) -> None:
        nonlocal attempts
        attempts += 1
        raise Error(Kind.UNAVAILABLE, "not now")

    queue = WorkQueue(work)
    queue.add(["endpoint/a"])
    running = asyncio.create_task(queue.run())
    await until(lambda: attempts >= 6)
    running.cancel()
    assert caplog.messages == ["endpoint/a is still not in line with the shared store: not now"]


async def test_object_added_as_failed_waits_and_is_then_tried() -> None:
    attempts: list[str] = []

    async def work(key: str) -> None:
        attempts.append(key)

    queue = WorkQueue(work)
    queue.add_failed(["a"], Error(Kind.UNAVAILABLE, "the disk is full"))
    running = asyncio.create_task(queue.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert (attempts, queue.problems, queue.is_idle) == ([], ["a: the disk is full"], True)
    await until(lambda: attempts == ["a"] and not queue.problems)
    running.cancel()


async def test_delay_grows_while_attempts_add_their_object_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the commit of an attempt is refused after the other hosts have it."""
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(work_queue, "LONGEST_DELAY", 0.004)
    refused, delays = Error(Kind.UNAVAILABLE, "the disk is full"), list[float]()

    async def work(key: str) -> None:
        delays.append(queue._failures[key].delay)
        queue.add_failed([key], refused)
        raise refused

    queue = WorkQueue(work)
    queue.add_failed(["a"], refused)
    running = asyncio.create_task(queue.run())
    await until(lambda: len(delays) >= 4)
    running.cancel()
    assert delays[:4] == [0.001, 0.002, 0.004, 0.004]


async def test_failure_added_during_an_attempt_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt may have looked at the object before what failed."""
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.001)
    attempts: list[str] = []

    async def work(key: str) -> None:
        attempts.append(key)
        if len(attempts) == 1:
            queue.add_failed([key], Error(Kind.UNAVAILABLE, "the disk is full"))

    queue = WorkQueue(work)
    queue.add(["a"])
    running = asyncio.create_task(queue.run())
    await until(lambda: attempts == ["a", "a"] and not queue.problems)
    running.cancel()


async def test_queue_sleeps_while_a_failed_object_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted the object's delay, which was over, and went round without a pause until the attempt ended."""
    monkeypatch.setattr(work_queue, "FIRST_DELAY", 0.0)
    hanging, attempts = asyncio.Event(), 0

    async def work(key: str) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise Error(Kind.UNAVAILABLE, "not now")
        await hanging.wait()

    queue, rounds = WorkQueue(work), 0
    take_due = queue._take_due

    def counted() -> None:
        nonlocal rounds
        rounds += 1
        take_due()

    monkeypatch.setattr(queue, "_take_due", counted)
    queue.add(["a"])
    running = asyncio.create_task(queue.run())
    await until(lambda: attempts == 2)
    before = rounds
    for _ in range(100):  # turns of the event loop, in each of which a spinning queue goes round
        await asyncio.sleep(0)
    assert rounds <= before + 1
    hanging.set()
    await queue.drained()
    running.cancel()
