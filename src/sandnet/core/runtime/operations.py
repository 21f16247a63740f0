"""Operations in progress. Each runs to its end, even when its caller disconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from sandnet.errors import Error, Kind

T = TypeVar("T")

_log = logging.getLogger(__name__)

LIMIT = 512
"""The number of changes in progress at a time; at 2 to 5 ms each, the last one waits some two seconds."""
DEADLINE = 60.0
"""Seconds until a request is answered even if something hangs: twice the time that one waits for a lock."""


class Operations:
    """Runs changes as tasks of their own, and waits for them at the end.

    Args:
        limit: the number of changes that may be in progress; more are refused at once.
        deadline: seconds after which the caller is answered without a result.
    """

    def __init__(self, limit: int = LIMIT, deadline: float = DEADLINE) -> None:
        self._limit, self._deadline = limit, deadline
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def count(self) -> int:
        """The number of changes in progress."""
        return len(self._running)

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change and return its result.

        A cancelled caller leaves the change running: half a change is worse than one without a waiting caller.

        Raises:
            Error: ``UNAVAILABLE`` once the daemon is stopping (``stopping``), when too many changes are in progress
                (``overloaded``), or when the deadline passes (``deadline``): then the change goes on.
        """
        if self._closed:
            change.close()
            raise Error(Kind.UNAVAILABLE, "the daemon is stopping", "repeat the request once it is back", "stopping")
        if len(self._running) >= self._limit:
            change.close()
            message = f"{len(self._running)} changes are under way, as many as there may be"
            raise Error(Kind.UNAVAILABLE, message, "repeat the request later", "overloaded")
        loop = asyncio.get_running_loop()
        answerable = loop.create_future()
        task = loop.create_task(change)
        self._running.add(task)
        task.add_done_callback(partial(self._ended, answerable))
        deadline = loop.call_later(self._deadline, _set, answerable)
        try:
            await answerable
        finally:
            deadline.cancel()
        if not task.done():
            task.add_done_callback(_log_late)
            message = f"not finished after {self._deadline:g} s; it goes on, and will be wholly done or undone"
            raise Error(
                Kind.UNAVAILABLE,
                message,
                "the health report names what hangs (sandnet status); check it before you repeat the request",
                "deadline",
            )
        return task.result()

    def _ended(self, answerable: asyncio.Future[None], task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        _set(answerable)
        if not task.cancelled():
            task.exception()  # retrieve the exception: the caller may have stopped waiting

    async def close(self) -> None:
        """Refuse new changes, and wait for those in progress."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _log_late(task: asyncio.Task[Any]) -> None:
    failure = "was cancelled" if task.cancelled() else task.exception()
    _log.warning("a change that was answered at its deadline %s", f"failed: {failure}" if failure else "is done")


@asynccontextmanager
async def alongside(other: asyncio.Future[None]) -> AsyncIterator[None]:
    """Run the block while something else is under way. Both have ended when this ends: a rollback must not race.

    Raises:
        BaseException: the failure of the block, else that of the other.
    """
    try:
        yield
    except BaseException:
        await asyncio.wait({other})
        if not other.cancelled():
            other.exception()  # retrieve the exception: the block's is raised
        raise
    await other


async def roll_back(what: str, removal: Coroutine[Any, Any, object]) -> None:
    """Remove what a failed change has made.

    The change's own error is the one to report, so a failure here is only logged: the record stays, and garbage
    collection removes what it names. Of what all hosts share, the follower of the shared store may do that.
    """
    try:
        await removal
    except Exception:
        _log.exception("%s could not be removed after a failure; it is tried again", what)
