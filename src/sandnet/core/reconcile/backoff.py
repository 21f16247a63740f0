"""Backoff for repairs that fail or do not last: when to try again, and what to report in the meantime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.scanner import Candidates

FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
"""Seconds from one attempt to the next; they double from the first to the longest."""
MAX_REPAIRS: Final = 5
WINDOW: Final = 10.0
"""Seconds for the count of repairs: after more than ``MAX_REPAIRS``, another process undoes them, and they back off."""
RESET_AFTER: Final = 60.0
"""Seconds without a repair, after the end of a delay, after which the backoff is forgotten."""


class _Failure(NamedTuple):
    due: float
    delay: float
    text: str
    code: str
    candidates: Candidates


class _RepairLoop(NamedTuple):
    """The state of repairs that another process keeps undoing."""

    due: float
    delay: float
    since: float
    repairs: int
    latest: Drift
    candidates: Candidates
    pending: bool = True
    """Whether the object is still to be checked since the latest repair, or since it became a candidate again."""

    def text(self, now: float) -> str:
        minutes = math.ceil((now - self.since) / 60)
        span = f"{minutes} minutes" if minutes > 1 else "minute"
        latest = self.latest
        done = f"{latest.kind} {latest.object} has been repaired {self.repairs} times in the last {span}"
        return f"{done}; another program undoes it ({latest.problem}), and the next repair waits {self.delay:.0f} s"


class RepairBackoff:
    """The backoff by object: a failing repair must not be tried again with every notification.

    Args:
        clock: returns seconds that never decrease.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}
        self._repairs: dict[str, list[float]] = {}
        """The times of recent repairs."""
        self._loops: dict[str, _RepairLoop] = {}

    @property
    def problems(self) -> list[str]:
        """One text for each object."""
        now = self._clock()
        loops = (loop.text(now) for owner, loop in self._loops.items() if owner not in self._failures)
        return [*(failure.text for failure in self._failures.values()), *loops]

    def known(self) -> Candidates:
        """Return the objects whose latest repair failed."""
        found = Candidates()
        for failure in self._failures.values():
            found.add(failure.candidates)
        return found

    def knows(self, owner: str, code: str) -> bool:
        """Return whether the latest repair of an object failed with this error code."""
        return owner in self._failures and self._failures[owner].code == code

    def record(self, candidates: Candidates, drifts_found: Iterable[Drift]) -> None:
        """Record the result of an attempt to repair these candidates.

        Those with a difference that is not repaired are failing; all others are in order.
        """
        drifts = list(drifts_found)
        left = {drift.owner: drift for drift in drifts if drift.done != REPAIRED}
        repaired = {drift.owner: drift for drift in drifts if drift.done == REPAIRED}
        for candidate in candidates.split():
            (owner,) = candidate.owners()
            self._record_failure(owner, left.get(owner), candidate)
            if owner in repaired:
                self._record_repair(owner, repaired[owner], candidate)
            elif owner in self._loops:
                self._loops[owner] = self._loops[owner]._replace(pending=False)
        self._forget_old()

    def _record_failure(self, owner: str, drift: Drift | None, candidate: Candidates) -> None:
        before = self._failures.pop(owner, None)
        if drift:
            delay = _doubled(before.delay) if before else FIRST_DELAY
            text = f"{drift.kind} {drift.object}: {drift.problem} ({drift.done})"
            self._failures[owner] = _Failure(self._clock() + delay, delay, text, drift.code, candidate)

    def _record_repair(self, owner: str, drift: Drift, candidate: Candidates) -> None:
        now, loop = self._clock(), self._loops.get(owner)
        if loop:
            due, delay = loop.due, loop.delay
            if due <= now:  # else it was requested or needed, and did not wait
                delay = _doubled(delay)
                due = now + delay
            self._loops[owner] = _RepairLoop(due, delay, loop.since, loop.repairs + 1, drift, candidate)
            return
        recent = [*(moment for moment in self._repairs.get(owner, ()) if moment > now - WINDOW), now]
        self._repairs[owner] = recent
        if len(recent) > MAX_REPAIRS:
            self._loops[owner] = _RepairLoop(now + FIRST_DELAY, FIRST_DELAY, recent[0], len(recent), drift, candidate)

    def _forget_old(self) -> None:
        now = self._clock()
        self._repairs = {owner: recent for owner, recent in self._repairs.items() if recent[-1] > now - WINDOW}
        self._loops = {owner: loop for owner, loop in self._loops.items() if now < loop.due + RESET_AFTER}

    def forget(self, is_absent: Callable[[Candidates], bool]) -> None:
        """Forget objects that no longer exist, and repairs that have lasted long enough."""
        self._failures = {owner: each for owner, each in self._failures.items() if not is_absent(each.candidates)}
        self._loops = {owner: each for owner, each in self._loops.items() if not is_absent(each.candidates)}
        self._forget_old()

    def due(self) -> Candidates:
        """Return the objects whose delay is over."""
        found, now = Candidates(), self._clock()
        for failure in self._failures.values():
            if failure.due <= now:
                found.add(failure.candidates)
        for loop in self._loops.values():
            if loop.pending and loop.due <= now:
                found.add(loop.candidates)
        return self.ready(found)

    def ready(self, candidates: Candidates) -> Candidates:
        """Return the candidates whose delay is over; the others become due when it is."""
        found, now = Candidates(), self._clock()
        for candidate in candidates.split():
            (owner,) = candidate.owners()
            waits = (self._failures.get(owner), self._loops.get(owner))
            if all(wait is None or wait.due <= now for wait in waits):
                found.add(candidate)
            elif owner in self._loops:
                self._loops[owner] = self._loops[owner]._replace(pending=True)
        return found


def _doubled(delay: float) -> float:
    return min(delay * 2, LONGEST_DELAY)
