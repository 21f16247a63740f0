"""Every change of records as an event, in order, for whoever wants to follow.

A sequence number is the store's revision and a place within the commit, so numbers grow over restarts and
a reader that was away can go on where it was, as long as the events since are still remembered.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from sandnet.core.state.index import weight
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

Subject = Network | Endpoint | Sandbox | Attachment

HISTORY = 10_000
"""Events kept for readers that come back, or are slow; who falls further behind is told so."""
REMEMBERED_BYTES = 32 << 20
"""Bytes of memory that they may take; the latest is always kept."""
AHEAD_BYTES = 1 << 20
"""Bytes of events that one reader holds while it does not read."""
_BASE = 400
"""Bytes of an event without its record."""
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
    of what was put right; ``warning`` of what somebody has to look at; ``missed`` with no subject when the reader has
    to read the lists anew."""
    subject: Subject | None
    network: str = ""
    """The name of the subject's network, as it was then."""
    service: str = ""
    """The name of an attachment's endpoint, as it was then."""
    repair: Repair | None = None
    """What was wrong with what is ``repaired``."""
    warning: str = ""
    """What there is to look at."""


class Transition(NamedTuple):
    """A record before and after a commit; ``None``: it was not there, or is not any more."""

    before: Subject | None
    after: Subject | None
    network: str = ""
    service: str = ""


def event_weight(event: Event) -> int:
    """Return about how many bytes of memory an event takes."""
    subject = weight(event.subject) if event.subject else 0
    return _BASE + subject + len(event.warning) + len(event.repair.problem if event.repair else "")


class PendingEvent(NamedTuple):
    """An event that has no number yet."""

    action: str
    subject: Subject | None
    network: str
    service: str
    repair: Repair | None = None
    warning: str = ""


def events_of(transitions: Iterable[Transition]) -> list[PendingEvent]:
    """The events of a commit, in order; none where only phases change, which are our own affair."""
    found = ((each, _meaning(each)) for each in transitions)
    return [PendingEvent(*meaning, each.network, each.service) for each, meaning in found if meaning]


class Events:
    """The events of this run. A reader keeps its own place, so a slow one costs nothing and delays nobody."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque()
        self._weight = 0
        self._floor = 0
        self._published = asyncio.Event()
        self._closed = False

    def resume_after(self, revision: int, count: int) -> None:
        """The last events of an earlier run were so many, of this revision of the store; they are not remembered.

        A reader that has come to the last of them has missed nothing.
        """
        self._floor = _number(revision, count - 1)

    def publish(self, revision: int, happened: Sequence[PendingEvent]) -> None:
        """Tell of a commit."""
        now = time.time()
        for place, each in enumerate(happened):
            self._history.append(Event(_number(revision, place), now, *each))
            self._weight += event_weight(self._history[-1])
        while len(self._history) > HISTORY or (self._weight > REMEMBERED_BYTES and len(self._history) > 1):
            oldest = self._history.popleft()
            self._weight -= event_weight(oldest)
            self._floor = oldest.sequence
        if happened:
            self._wake()

    @property
    def last(self) -> int:
        """The sequence number of the latest event."""
        return self._history[-1].sequence if self._history else self._floor

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
                await self._published.wait()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    def _after(self, place: int) -> list[Event]:
        """The next events after a place, as many as a reader may hold; the rest may be forgotten while it reads."""
        first = bisect_right(self._history, place, key=attrgetter("sequence"))
        found: list[Event] = []
        held = 0
        for event in islice(self._history, first, None):
            held += event_weight(event)
            if found and held > AHEAD_BYTES:
                break
            found.append(event)
        return found

    def _wake(self) -> None:
        self._published.set()
        self._published = asyncio.Event()


def _number(revision: int, place: int) -> int:
    return revision * PLACES + min(place, PLACES - 1)


def _meaning(each: Transition) -> tuple[str, Subject] | None:
    was = each.before is not None and each.before.phase is Phase.READY
    is_ = each.after is not None and each.after.phase is Phase.READY
    attached = isinstance(each.after or each.before, Attachment)
    if is_ and not was and each.after:
        return "attached" if attached else "created", each.after
    if was and not is_ and each.before:
        return "detached" if attached else "removed", each.before
    if is_ and each.after and each.after != each.before:
        return "changed", each.after
    return None
