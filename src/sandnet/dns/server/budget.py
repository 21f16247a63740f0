"""CPU budgets: the time that the work of one client may take before all other clients are served.

Questions differ in their costs, so time is counted, not questions. Each client has a time slice in each iteration of
the event loop. Remaining work continues in the next iteration: it waits in the client's sockets if it can, else in a
queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE: Final = 0.0005
"""Seconds of work of one client in one iteration of the event loop."""
OVERRUN: Final = SLICE
"""Maximum seconds that work is charged beyond its slice. The clock also counts the time for which other programs had
the processor, and a client must not wait for others because of that."""
DEBT: Final = 8 * SLICE
"""Maximum seconds that are charged beyond a slice, work elsewhere included."""

clock = time.monotonic
"""The clock of this module."""


class Budget:
    """The time slices of one client. Work that is done within other work shares its slice."""

    __slots__ = ("_charged", "_left", "_loop", "_renewing", "_waiting", "until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = SLICE
        self._charged = 0.0
        """Seconds charged during the work in progress."""
        self.until = 0.0
        """Time at which the work in progress must stop; 0: there is none."""
        self._renewing = False
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self) -> float:
        """Return the time at which work that begins now must stop; 0: no work may begin in this iteration.

        The caller calls :meth:`end` after the work, even if the work fails.
        """
        self.until = clock() + self._left if self._left > 0 else 0.0
        return self.until

    def end(self) -> None:
        """Charge the work since :meth:`begin`."""
        self._left = max(self.until - clock(), -OVERRUN) - self._charged
        self.until = self._charged = 0.0
        if self._left < SLICE / 2:  # a larger rest is used in later iterations: a renewal costs an iteration itself
            self._renew_soon()

    def charge(self, seconds: float) -> None:
        """Charge work that is done elsewhere."""
        if self.until:
            self._charged += seconds
        else:
            self._left -= seconds
            self._renew_soon()

    def run(self, work: Callable[[], None]) -> None:
        """Do a piece of work now, or as soon as the budget allows, in the order of the calls."""
        if self._waiting:
            self._waiting.append(work)
        elif self.until > clock():
            work()
        elif not self.until and self.begin():
            self._do(work)
        else:
            self._waiting.append(work)
            self._renew_soon()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self.end()

    def _renew_soon(self) -> None:
        if not self._renewing:
            self._renewing = True
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        """Begin a new slice, and do the queued work."""
        self._renewing = False
        self._left = min(SLICE, max(self._left, -DEBT) + SLICE)
        while self._waiting and self.begin():
            self._do(self._waiting.popleft())
        if self._waiting or self._left <= 0:
            self._renew_soon()
