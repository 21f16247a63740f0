"""How long the work of one asker may take before all others get their turn.

Questions differ in their work, so time is counted, not questions. In one turn of the event loop each asker has a
slice. Where work is left, the asker goes on in the next turn: what waits in its sockets waits there, and what cannot
wait there waits in a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE: Final = 0.0005
"""Seconds of work of one asker in one turn of the event loop."""
DEBT: Final = 8 * SLICE
"""Seconds that count at the most of a piece of work that took longer than its slice: it may be the machine that
was busy."""

clock = time.monotonic
"""What the times of this module are read from."""


class Budget:
    """The slices of one asker. Pieces of work may be nested: the outermost one counts."""

    __slots__ = ("_left", "_loop", "_renewing", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = SLICE
        self._renewing = False
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self) -> float:
        """Return the moment at which work that begins now has to stop; 0: none may begin in this turn."""
        return clock() + self._left if self._left > 0 else 0.0

    def end(self, until: float) -> None:
        """Count the work that :meth:`begin` let begin; ``until`` is what it returned."""
        self._left = until - clock()
        if self._left < SLICE / 2:  # what is above it is left for later turns: renewing costs a turn itself
            self._renew_soon()

    def charge(self, seconds: float) -> None:
        """Count work that is done elsewhere."""
        self._left -= seconds
        self._renew_soon()

    def run(self, work: Callable[[], None]) -> None:
        """Do a piece of work now, or as soon as there is time for it, in the order of the calls."""
        until = 0.0 if self._waiting else self.begin()
        if until:
            self._do(work, until)
        else:
            self._waiting.append(work)
            self._renew_soon()

    def _do(self, work: Callable[[], None], until: float) -> None:
        try:
            work()
        finally:
            self.end(until)

    def _renew_soon(self) -> None:
        if not self._renewing:
            self._renewing = True
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        """Begin a new turn with what waits for it."""
        self._renewing = False
        self._left = min(SLICE, max(self._left, -DEBT) + SLICE)
        while self._waiting and (until := self.begin()):
            self._do(self._waiting.popleft(), until)
        if self._waiting or self._left <= 0:
            self._renew_soon()
