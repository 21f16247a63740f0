"""Worker threads, and jobs that do not come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from threading import Event

import pytest

from sandnet.errors import Error, Kind
from sandnet.kernel.workers import Timeouts, Workers
from tests.support.conditions import until
from tests.support.network_host import eventually

SOON = 10.0


@pytest.fixture
def stuck() -> Iterator[Event]:
    """What hanging jobs wait for; it comes when the test ends."""
    event = Event()
    yield event
    event.set()


def hang(event: Event) -> str:
    event.wait(60)
    return "came back"


async def test_job_behind_hanging_ones_gets_its_own_thread(stuck: Event) -> None:
    workers = Workers(threads=2, spare=2, timeouts=Timeouts(queue=SOON, job=0.05))
    hanging = [asyncio.create_task(workers.run(hang, stuck)) for _ in range(2)]
    await asyncio.wait(hanging, timeout=0)  # they have the turns
    async with asyncio.timeout(SOON):
        assert await workers.run(str, 1) == "1"
    await until(lambda: len(workers.hanging()) == 2)
    assert workers.hanging()[0].startswith("hang has been running for")
    stuck.set()
    assert await asyncio.gather(*hanging) == ["came back"] * 2
    assert workers.hanging() == []
    assert await asyncio.gather(*(workers.run(str, i) for i in range(9))) == [str(i) for i in range(9)]
    workers.close()


async def test_job_beyond_the_spare_threads_is_503_in_time(stuck: Event) -> None:
    workers = Workers(threads=1, spare=1, timeouts=Timeouts(queue=0.3, job=0.05))
    hanging = [asyncio.create_task(workers.run(hang, stuck)) for _ in range(2)]
    async with asyncio.timeout(SOON):
        while len(workers.hanging()) < 2:
            await asyncio.wait(hanging, timeout=0.01)
        with pytest.raises(Error, match=r"no worker thread was free for 0\.3 s: hang has been running") as refused:
            await workers.run(str, 1)
    assert (refused.value.kind, refused.value.code) == (Kind.UNAVAILABLE, "kernel_busy")
    stuck.set()
    await asyncio.gather(*hanging)
    assert await workers.run(str, 1) == "1"
    workers.close()


async def test_job_waits_for_a_thread_as_long_as_others_end() -> None:
    workers = Workers(threads=1, spare=1, timeouts=Timeouts(queue=0.2))
    jobs = [workers.run(time.sleep, 0.05) for _ in range(12)]
    async with asyncio.timeout(SOON):
        assert await asyncio.gather(*jobs) == [None] * 12
    workers.close()


async def test_caller_cancelled_in_the_queue_leaves_its_place(stuck: Event) -> None:
    workers = Workers(threads=1)
    hanging = asyncio.create_task(workers.run(hang, stuck))
    waiting = [asyncio.create_task(workers.run(str, number)) for number in range(3)]
    await asyncio.wait(waiting, timeout=0.05)
    waiting[0].cancel()
    stuck.set()
    waiting[1].cancel()
    async with asyncio.timeout(SOON):
        assert await waiting[2] == "2"
        assert await hanging == "came back"
        assert await workers.run(str, 3) == "3"
    workers.close()


async def test_cancelled_caller_waits_for_its_running_job(stuck: Event) -> None:
    workers = Workers()
    begun = Event()

    def job() -> None:
        begun.set()
        hang(stuck)

    running = asyncio.create_task(workers.run(job))
    await asyncio.to_thread(begun.wait)
    running.cancel()
    await asyncio.wait([running], timeout=0.05)
    assert not running.done()
    stuck.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    workers.close()


async def test_many_short_jobs_stay_within_the_thread_limit() -> None:
    workers = Workers(threads=2)
    now, most = 0, 0

    def job() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        now -= 1

    await asyncio.gather(*(workers.run(job) for _ in range(200)))
    assert most <= 2
    assert not workers._spares._threads
    workers.close()
    eventually(lambda: not workers.hanging())


async def test_job_cancelled_as_it_ends_does_not_hang() -> None:
    workers = Workers()
    running = asyncio.create_task(workers.run(str, 1))
    while not workers._running:  # noqa: ASYNC110 - it begins in the next round of the event loop
        await asyncio.sleep(0)
    workers._pool.close(wait=True)  # the result is on its way to the event loop now
    running.cancel()
    await asyncio.wait([running], timeout=SOON)
    assert running.cancelled()
    assert not workers.hanging()
