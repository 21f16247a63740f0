"""Promises of a number of seconds, kept on machines that are shared and stand still at times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

TRIES = 3
_TICK = 0.05

T = TypeVar("T")


def in_time(attempt: Callable[[], T], seconds: Callable[[T], float], promised: float) -> T:
    """The first of a few attempts that keeps a promise: a machine may stand still, a program that is slow is so always.

    Raises:
        AssertionError: none does.
    """
    late = []
    for _ in range(TRIES):
        found = attempt()
        if seconds(found) <= promised:
            return found
        late.append(f"{seconds(found):.2f} s")
    raise AssertionError(f"promised within {promised} s, and took {', '.join(late)}")


def quick(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that can be repeated, and that takes less than a time.

    Raises:
        AssertionError: it takes longer each time.
    """

    def timed() -> tuple[T, float]:
        began = time.monotonic()
        return call(), time.monotonic() - began

    result, _ = in_time(timed, lambda found: found[1], seconds)
    return result


class Ticker:
    """Counts the seconds in which the event loop goes round: a machine that stands still counts as one tick."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.seconds += _TICK
