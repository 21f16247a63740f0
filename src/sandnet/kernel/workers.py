"""The one bridge between the event loop and the kernel: worker threads that never abandon a job.

The kernel works inside ``sendmsg``: a netlink call on the event loop stalls it for as long as the kernel takes to
delete a link (15 ms at the median). With four threads the stall is 0.13 ms (docs/design.md).

A system call that does not return cannot be ended from outside, so a job cannot either. A job that hangs keeps its
thread and loses its slot: another thread replaces it, until too many hang.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from sandnet.errors import Error, Kind
from sandnet.threads import JobThreads

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
SPARE = 16
"""Threads that may replace hanging ones."""


class Timeouts(NamedTuple):
    """Limits in seconds."""

    queue: float = 20.0
    """How long a job waits for a thread while no other job ends. It waits longer behind many that go on."""
    job: float = 10.0
    """How long a job runs before it counts as hanging. The longest, a ruleset for 1,000 networks, takes one second."""


TIMEOUTS = Timeouts()

_log = logging.getLogger(__name__)


class _RunningJob:
    """A job that has begun."""

    def __init__(self, name: str, *, spare: bool) -> None:
        self.name = name
        self.since = time.monotonic()
        self.spare = spare
        """It runs on a spare thread."""
        self.replaced = False
        """Another job has its slot."""
        self.alarm: asyncio.TimerHandle | None = None
        self.end: asyncio.Future[None] | None = None
        """What a cancelled caller waits for."""


class Workers:
    """Runs synchronous kernel jobs off the event loop, a limited number at a time.

    Args:
        threads: how many.
        spare: how many more there may be while as many jobs hang.
        timeouts: how long jobs may run and wait.
    """

    def __init__(self, threads: int = THREADS, spare: int = SPARE, timeouts: Timeouts = TIMEOUTS) -> None:
        self._pool = JobThreads(threads, "kernel")
        self._spares = JobThreads(spare, "kernel-spare")
        self._slots = asyncio.Semaphore(threads)
        self._threads, self._spare = threads, spare
        self._timeouts = timeouts
        self._running: set[_RunningJob] = set()
        self._jobs_ended = 0

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the job on a thread and return its result.

        When the caller is cancelled, the job still runs to its end, and the cancellation arrives after it: a client
        that hangs up cannot leave half a step.

        Raises:
            Error: ``UNAVAILABLE``, code ``kernel_busy``: no thread was free, and no job ended. The job has not begun.
        """
        if self._slots.locked():
            await self._wait_for_slot()
        else:
            await self._slots.acquire()
        spare = len(self._running) >= self._threads and sum(not each.spare for each in self._running) >= self._threads
        running = _RunningJob(_name_of(job), spare=spare)
        threads = self._spares if spare else self._pool
        try:
            done = threads.submit(functools.partial(job, *args, **kwargs), functools.partial(self._ended, running))
        except BaseException:
            self._slots.release()
            raise
        self._running.add(running)
        loop = asyncio.get_running_loop()
        running.alarm = loop.call_later(self._timeouts.job, self._replace, running)
        try:
            return await done
        except asyncio.CancelledError:
            if running in self._running:
                running.end = loop.create_future()
                await asyncio.wait([running.end])
            raise

    def hanging(self) -> list[str]:
        """Describe the jobs that run longer than the limit, the oldest first."""
        now = time.monotonic()
        found = sorted((now - each.since, each.name) for each in self._running)
        return [f"{name} has been running for {age:.0f} s" for age, name in reversed(found) if age > self._timeouts.job]

    async def _wait_for_slot(self) -> None:
        acquired = asyncio.ensure_future(self._slots.acquire())  # keeps its place in the queue
        try:
            ended_before = -1
            while not acquired.done() and self._jobs_ended != ended_before:
                ended_before = self._jobs_ended
                await asyncio.wait([acquired], timeout=self._timeouts.queue)
        except asyncio.CancelledError:
            if not acquired.cancel():
                self._slots.release()
            raise
        if not acquired.done():
            acquired.cancel()
            hanging = "; ".join(self.hanging())
            message = f"no worker thread was free for {self._timeouts.queue:g} s{hanging and ': '}{hanging}"
            raise Error(Kind.UNAVAILABLE, message, "repeat the request later", "kernel_busy")

    def _replace(self, running: _RunningJob) -> None:
        """Give the slot of a hanging job to another job."""
        _log.warning("%s has not ended after %g s", running.name, self._timeouts.job)
        if sum(each.replaced for each in self._running) < self._spare:
            running.replaced = True
            self._slots.release()

    def _ended(self, running: _RunningJob) -> None:
        self._running.discard(running)
        self._jobs_ended += 1
        if running.alarm:
            running.alarm.cancel()
        if running.end and not running.end.done():
            running.end.set_result(None)
        if not running.replaced:
            self._slots.release()

    def close(self) -> None:
        """Wait for the running jobs and stop the threads."""
        self._pool.close(wait=True)
        self._spares.close(wait=True)


def _name_of(job: Callable[..., object]) -> str:
    """Return the name in the source: ``LinuxLinks.plug``."""
    if isinstance(job, functools.partial):
        job = job.func
    return getattr(job, "__qualname__", type(job).__name__)
