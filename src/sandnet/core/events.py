"""Every change of records as an event, in order, for whoever wants to follow.

A sequence number is the store's revision and a place within the commit, so numbers grow over restarts and
a reader that was away can go on where it was, as long as the events since are still remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import takewhile
from typing import NamedTuple

from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

Subject = Network | Endpoint | Sandbox | Attachment

REMEMBERED = 10_000
"""Events kept for readers that come back, or are slow; who falls further behind is told so."""
PLACES = 1 << 10
"""Sequence numbers a revision has room for."""


class Repair(NamedTuple):
    """Something that others had changed or removed is back."""

    kind: str
    object: str
    """A name, a path, or an id."""
    problem: str
    """What was wrong."""
    subject: Subject | None
    """The record it is about, where it is one's."""


class Event(NamedTuple):
    """Something that happened."""

    sequence: int
    time: float
    """Seconds since the epoch."""
    action: str
    """``created``, ``changed`` or ``removed``; of attachments ``attached``, ``changed`` or ``detached``; ``repaired``
    of what was put right; ``missed`` with no subject when the reader has to read the lists anew."""
    subject: Subject | None
    repair: Repair | None = None
    """What was wrong with what is ``repaired``."""


class Transition(NamedTuple):
    """A record before and after a commit; ``None``: it was not there, or is not any more."""

    before: Subject | None
    after: Subject | None


class Events:
    """The events of this run. A reader keeps its own place, so a slow one costs nothing and delays nobody."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque()
        self._floor = 0
        self._news = asyncio.Event()
        self._closed = False

    def begin(self, revision: int) -> None:
        """Events up to this revision of the store happened in an earlier run and are not remembered.

        A reader that has come to the last revision has missed nothing.
        """
        self._floor = revision * PLACES

    def publish(self, revision: int, transitions: Iterable[Transition]) -> None:
        """Tell of a commit."""
        self._append(revision, ((*told, None) for each in transitions for told in _told(each)))

    def publish_repairs(self, revision: int, repairs: Iterable[Repair]) -> None:
        """Tell of repairs, at a revision that nothing else was told of."""
        self._append(revision, (("repaired", repair.subject, repair) for repair in repairs))

    def _append(self, revision: int, told: Iterable[tuple[str, Subject | None, Repair | None]]) -> None:
        now, last = time.time(), self.last
        for place, (action, subject, repair) in enumerate(told):
            self._past.append(Event(revision * PLACES + min(place, PLACES - 1), now, action, subject, repair))
        while len(self._past) > REMEMBERED:
            self._floor = self._past.popleft().sequence
        if self.last != last:
            self._wake()

    @property
    def last(self) -> int:
        """The sequence number of the latest event."""
        return self._past[-1].sequence if self._past else self._floor

    async def follow(self, since: int | None = None) -> AsyncIterator[Event]:
        """All events after ``since`` (from now on, without it), as they happen; ends when the daemon stops."""
        place = self.last if since is None else since
        while not self._closed:
            if place < self._floor:
                place = self._floor
                yield Event(place, time.time(), "missed", None)
            for event in self._after(place):
                place = event.sequence
                yield event
            if place >= self.last:
                await self._news.wait()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    def _after(self, place: int) -> list[Event]:
        found = list(takewhile(lambda event: event.sequence > place, reversed(self._past)))
        return found[::-1]

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _told(each: Transition) -> list[tuple[str, Subject]]:
    """What a transition means to somebody outside: phases are our own affair."""
    was = each.before is not None and each.before.phase is Phase.READY
    is_ = each.after is not None and each.after.phase is Phase.READY
    attached = isinstance(each.after or each.before, Attachment)
    if is_ and not was and each.after:
        return [("attached" if attached else "created", each.after)]
    if was and not is_ and each.before:
        return [("detached" if attached else "removed", each.before)]
    if is_ and each.after and each.after != each.before:
        return [("changed", each.after)]
    return []
