"""What could not be repaired: when it is tried again, and what is told of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from sandnet.core.drift import REPAIRED, Drift
from sandnet.core.lookout import Suspects

FIRST: Final = 1.0
LONGEST: Final = 60.0
"""Seconds from a failure to the next try; they double from the first to the longest."""


class _Failure(NamedTuple):
    due: float
    delay: float
    text: str
    suspects: Suspects


class Failing:
    """By object: an object that cannot be repaired must not be tried again with every change that is heard of.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}

    @property
    def problems(self) -> list[str]:
        """In words, one for each object."""
        return [failure.text for failure in self._failures.values()]

    def judge(self, suspects: Suspects, told: Iterable[Drift]) -> None:
        """Note how an attempt to repair these suspects went: what is told as left is failing, all others are well."""
        left = {drift.owner: drift for drift in told if drift.done != REPAIRED}
        for one in suspects.apart():
            (owner,) = one.owners()
            drift, before = left.get(owner), self._failures.pop(owner, None)
            if drift:
                delay = min(before.delay * 2, LONGEST) if before else FIRST
                text = f"{drift.kind} {drift.object}: {drift.problem} ({drift.done})"
                self._failures[owner] = _Failure(self._clock() + delay, delay, text, one)

    def forget(self, is_gone: Callable[[Suspects], bool]) -> None:
        """Those that are gone need no repair any more."""
        self._failures = {owner: each for owner, each in self._failures.items() if not is_gone(each.suspects)}

    def due(self) -> Suspects:
        """Those whose time has come."""
        found = Suspects()
        for failure in self._failures.values():
            if failure.due <= self._clock():
                found.add(failure.suspects)
        return found

    def patient(self, suspects: Suspects) -> Suspects:
        """The suspects without those whose time has not come."""
        found = Suspects()
        for one in suspects.apart():
            (owner,) = one.owners()
            failure = self._failures.get(owner)
            if failure is None or failure.due <= self._clock():
                found.add(one)
        return found
