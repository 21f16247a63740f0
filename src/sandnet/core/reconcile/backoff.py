"""What cannot be repaired, or does not stay so: when it is tried again, and what is told of it meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.scanner import Candidates

FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
"""Seconds from one try to the next; they double from the first to the longest."""
MAX_REPAIRS: Final = 5
WINDOW: Final = 10.0
"""More repairs than ``OFTEN`` in ``SHORT`` seconds: somebody undoes them, and is given way to."""
RESET_AFTER: Final = 60.0
"""Seconds after the end of a wait in which nothing had to be repaired, after which all is forgotten."""


class _Failure(NamedTuple):
    due: float
    delay: float
    text: str
    code: str
    candidates: Candidates


class _RepairLoop(NamedTuple):
    """With somebody who undoes repairs."""

    due: float
    delay: float
    since: float
    repairs: int
    latest: Drift
    candidates: Candidates
    pending: bool = True
    """Nobody has looked since the latest repair, or since it seemed wrong."""

    def text(self, now: float) -> str:
        minutes = math.ceil((now - self.since) / 60)
        span = f"{minutes} minutes" if minutes > 1 else "minute"
        latest = self.latest
        done = f"{latest.kind} {latest.object} has been repaired {self.repairs} times in the last {span}"
        return f"{done}; somebody undoes it ({latest.problem}), and the next repair waits {self.delay:.0f} s"


class RepairBackoff:
    """By object: one that is in vain repaired must not be tried again with every change that is heard of.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}
        self._repairs: dict[str, list[float]] = {}
        """Moments of the repairs of late."""
        self._wars: dict[str, _RepairLoop] = {}

    @property
    def problems(self) -> list[str]:
        """In words, one for each object."""
        now = self._clock()
        wars = (war.text(now) for owner, war in self._wars.items() if owner not in self._failures)
        return [*(failure.text for failure in self._failures.values()), *wars]

    def known(self) -> Candidates:
        """Those that could not be repaired when they were tried last."""
        found = Candidates()
        for failure in self._failures.values():
            found.add(failure.candidates)
        return found

    def knows(self, owner: str, code: str) -> bool:
        """Whether an object could not be repaired when it was tried last, for the reason that has this code."""
        return owner in self._failures and self._failures[owner].code == code

    def record(self, suspects: Candidates, told: Iterable[Drift]) -> None:
        """Note how an attempt to repair these suspects went: what is told as left is failing, all others are well."""
        drifts = list(told)
        left = {drift.owner: drift for drift in drifts if drift.done != REPAIRED}
        repaired = {drift.owner: drift for drift in drifts if drift.done == REPAIRED}
        for one in suspects.apart():
            (owner,) = one.owners()
            self._record_failure(owner, left.get(owner), one)
            if owner in repaired:
                self._note_repair(owner, repaired[owner], one)
            elif owner in self._wars:
                self._wars[owner] = self._wars[owner]._replace(pending=False)
        self._forget_old()

    def _record_failure(self, owner: str, drift: Drift | None, one: Candidates) -> None:
        before = self._failures.pop(owner, None)
        if drift:
            delay = _longer(before.delay) if before else FIRST_DELAY
            text = f"{drift.kind} {drift.object}: {drift.problem} ({drift.done})"
            self._failures[owner] = _Failure(self._clock() + delay, delay, text, drift.code, one)

    def _note_repair(self, owner: str, drift: Drift, one: Candidates) -> None:
        now, war = self._clock(), self._wars.get(owner)
        if war:
            due, delay = war.due, war.delay
            if due <= now:  # else somebody asked for it, or needed it, and did not wait
                delay = _longer(delay)
                due = now + delay
            self._wars[owner] = _RepairLoop(due, delay, war.since, war.repairs + 1, drift, one)
            return
        late = [*(moment for moment in self._repairs.get(owner, ()) if moment > now - WINDOW), now]
        self._repairs[owner] = late
        if len(late) > MAX_REPAIRS:
            self._wars[owner] = _RepairLoop(now + FIRST_DELAY, FIRST_DELAY, late[0], len(late), drift, one)

    def _forget_old(self) -> None:
        now = self._clock()
        self._repairs = {owner: late for owner, late in self._repairs.items() if late[-1] > now - WINDOW}
        self._wars = {owner: war for owner, war in self._wars.items() if now < war.due + RESET_AFTER}

    def forget(self, is_gone: Callable[[Candidates], bool]) -> None:
        """Those that are gone need no repair any more, and those that have been quiet for long are trusted again."""
        self._failures = {owner: each for owner, each in self._failures.items() if not is_gone(each.candidates)}
        self._wars = {owner: each for owner, each in self._wars.items() if not is_gone(each.candidates)}
        self._forget_old()

    def due(self) -> Candidates:
        """Those whose time has come."""
        found, now = Candidates(), self._clock()
        for failure in self._failures.values():
            if failure.due <= now:
                found.add(failure.candidates)
        for war in self._wars.values():
            if war.pending and war.due <= now:
                found.add(war.candidates)
        return self.ready(found)

    def ready(self, suspects: Candidates) -> Candidates:
        """The suspects without those whose time has not come; these are due when it comes."""
        found, now = Candidates(), self._clock()
        for one in suspects.apart():
            (owner,) = one.owners()
            waits = (self._failures.get(owner), self._wars.get(owner))
            if all(wait is None or wait.due <= now for wait in waits):
                found.add(one)
            elif owner in self._wars:
                self._wars[owner] = self._wars[owner]._replace(pending=True)
        return found


def _longer(delay: float) -> float:
    return min(delay * 2, LONGEST_DELAY)
