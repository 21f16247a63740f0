"""Operations in flight: each runs to its end, whoever asked for it may hang up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, cast

from sandnet.errors import Error, Kind

T = TypeVar("T")
U = TypeVar("U")

_log = logging.getLogger(__name__)


class Operations:
    """Runs changes as tasks of their own and waits for them at the end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """The change's result. A cancelled caller leaves the change running: half a change is worse than
        one nobody waits for.

        Raises:
            Error: ``UNAVAILABLE`` once the daemon is stopping.
        """
        if self._closed:
            change.close()
            raise Error(Kind.UNAVAILABLE, "the daemon is stopping", "repeat the request once it is back", "stopping")
        task = asyncio.get_running_loop().create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Refuse new changes and wait for those in flight."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running)


async def together(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """Both results. Both have ended when this returns or raises: what undoes them must not race with them."""
    done = await asyncio.gather(one, other, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return cast(tuple[T, U], done)


async def undo(what: str, removal: Coroutine[Any, Any, object]) -> None:
    """Remove what a failed change has made. The change's own error is the one to report, so a failure here
    is only logged: the record stays, and the next restore removes what it names."""
    try:
        await removal
    except Exception:
        _log.exception("%s could not be removed after a failure; the next start tries again", what)
