"""Threads that run jobs for the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from sandnet.threads import JobThreads
from tests.support.network_host import eventually

SOON = 10.0

HANGING = """
import asyncio, time
from sandnet.threads import JobThreads

async def main():
    JobThreads(1, "job").submit(lambda: time.sleep(60))

asyncio.run(main())
"""


@pytest.fixture
def threads() -> Iterator[JobThreads]:
    """Two threads."""
    found = JobThreads(2, "job")
    yield found
    found.close(wait=True)


async def test_job_runs_on_a_named_thread_and_its_result_returns(threads: JobThreads) -> None:
    assert await threads.submit(lambda: threading.current_thread().name) == "job_0"


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_exception_of_a_job_reaches_its_caller(threads: JobThreads, failure: BaseException) -> None:
    def job() -> None:
        raise failure

    done = threads.submit(job)
    await asyncio.wait([done], timeout=SOON)
    assert done.exception() is failure


async def test_job_that_raises_stop_iteration_is_answered(threads: JobThreads) -> None:
    with pytest.raises(RuntimeError, match="a job raised StopIteration"):
        await threads.submit(partial(next, iter(())))


async def test_next_job_runs_after_one_that_failed(threads: JobThreads) -> None:
    done = [threads.submit(partial(int, text)) for text in ("x", "y", "z", "1")]
    await asyncio.wait(done, timeout=SOON)
    assert await done[-1] == 1


async def test_jobs_start_no_more_threads_than_the_limit(threads: JobThreads) -> None:
    names = await asyncio.gather(*(threads.submit(lambda: threading.current_thread().name) for _ in range(100)))
    assert set(names) <= {"job_0", "job_1"}


async def test_jobs_one_after_the_other_use_one_thread(threads: JobThreads) -> None:
    names = [await threads.submit(lambda: threading.current_thread().name) for _ in range(20)]
    assert set(names) == {"job_0"}


async def test_cancelled_future_does_not_stop_the_thread(threads: JobThreads) -> None:
    begun, end = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        end.wait(SOON)

    done = threads.submit(job)
    await asyncio.to_thread(begun.wait, SOON)
    done.cancel()
    end.set()
    assert await threads.submit(lambda: 1) == 1


async def test_close_with_wait_returns_after_the_submitted_jobs() -> None:
    threads, ran = JobThreads(1, "job"), list[int]()
    for number in range(10):
        threads.submit(partial(ran.append, number))
    threads.close(wait=True)
    assert ran == list(range(10))
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(list)


def test_thread_survives_the_end_of_an_event_loop() -> None:
    threads, end = JobThreads(1, "job"), threading.Event()

    async def submit_only() -> None:
        threads.submit(partial(end.wait, SOON))

    async def submit() -> int:
        return await threads.submit(lambda: 1)

    asyncio.run(submit_only())
    end.set()
    assert asyncio.run(submit()) == 1
    threads.close(wait=True)


async def test_idle_thread_keeps_no_job_alive(threads: JobThreads) -> None:
    class Large:
        """Something that a job refers to."""

    large = Large()
    gone = weakref.ref(large)
    await threads.submit(partial(id, large))
    del large
    eventually(lambda: gone() is None)


def test_hanging_job_does_not_keep_the_process_from_exiting() -> None:
    subprocess.run([sys.executable, "-c", HANGING], check=True, timeout=50)
