"""Every change of records as an event, in order, for clients that follow.

A sequence number consists of the store's revision and a position within the commit. So the numbers grow across
restarts, and a reader that was away can resume where it was, as long as the events since then are still in the history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from sandnet.core.state.index import weight
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

_log = logging.getLogger(__name__)

Subject = Network | Endpoint | Sandbox | Attachment

HISTORY = 10_000
"""The number of events kept for slow or reconnecting readers; one further behind gets a ``missed`` event."""
REMEMBERED_BYTES = 32 << 20
"""Bytes of memory that these events may take; the latest event is always kept."""
AHEAD_BYTES = 1 << 20
"""Bytes of events that one reader holds while it does not read."""
_BASE = 400
"""Bytes of an event without its record."""
PLACES = 1 << 10
"""The number of sequence numbers in one revision."""


class Repair(NamedTuple):
    """The repair of an object that another process had changed or removed."""

    kind: str
    object: str
    """A name, a path, or an id."""
    problem: str
    """The difference that was repaired."""
    subject: Subject | None
    """The record that the repair concerns, if any."""


class Event(NamedTuple):
    """A change, a repair or a warning."""

    sequence: int
    time: float
    """Seconds since the epoch."""
    action: str
    """``created``, ``changed`` or ``removed``; of attachments ``attached``, ``changed`` or ``detached``; ``repaired``
    of a repaired difference; ``warning`` of a problem that the operator has to look at; ``missed`` without a subject
    when the reader has to read the lists again.
    """
    subject: Subject | None
    network: str = ""
    """The name of the subject's network at that time."""
    service: str = ""
    """The name of an attachment's endpoint at that time."""
    repair: Repair | None = None
    """The details of a ``repaired`` event."""
    warning: str = ""
    """The text of a ``warning`` event."""


Listener = Callable[[Event], None]


class Transition(NamedTuple):
    """A record before and after a commit; ``None``: it did not exist, or does not exist any more."""

    before: Subject | None
    after: Subject | None
    network: str = ""
    service: str = ""


def event_weight(event: Event) -> int:
    """Return about how many bytes of memory an event takes."""
    subject = weight(event.subject) if event.subject else 0
    return _BASE + subject + len(event.warning) + len(event.repair.problem if event.repair else "")


class PendingEvent(NamedTuple):
    """An event that has no sequence number yet."""

    action: str
    subject: Subject | None
    network: str
    service: str
    repair: Repair | None = None
    warning: str = ""


def events_of(transitions: Iterable[Transition]) -> list[PendingEvent]:
    """Return the events of a commit, in order; none for a change of phases only, which is internal."""
    found = ((each, _action_and_subject(each)) for each in transitions)
    return [PendingEvent(*action, each.network, each.service) for each, action in found if action]


class Events:
    """The events of this run. Each reader keeps its own position, so a slow one costs nothing and delays no other."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque()
        self._weights: deque[int] = deque()
        """Of the events in the history."""
        self._weight = 0
        self._floor = 0
        self._published = asyncio.Event()
        self._listeners: list[Listener] = []
        self._closed = False

    def listen(self, listener: Listener) -> None:
        """Call a part of the daemon with each event from now on, before its change is answered.

        It costs a call; a reader that :meth:`follow` wakes costs two rounds of the event loop for each commit.

        Args:
            listener: returns at once; an exception is logged.
        """
        self._listeners.append(listener)

    def ignore(self, listener: Listener) -> None:
        """Call a listener no more."""
        self._listeners = [each for each in self._listeners if each != listener]

    def resume_after(self, revision: int, count: int) -> None:
        """Continue the numbering after the last events of an earlier run.

        Those events are not in the history. A reader that has received the last of them has missed nothing.

        Args:
            revision: the store's revision of the last commit that published events.
            count: the number of those events.
        """
        self._floor = _sequence_number(revision, count - 1)

    def publish(self, revision: int, events: Sequence[PendingEvent]) -> None:
        """Publish the events of one commit."""
        now = time.time()
        for position, each in enumerate(events):
            event = Event(_sequence_number(revision, position), now, *each)
            self._history.append(event)
            self._weights.append(event_weight(event))
            self._weight += self._weights[-1]
            self._call_listeners(event)
        while len(self._history) > HISTORY or (self._weight > REMEMBERED_BYTES and len(self._history) > 1):
            self._floor = self._history.popleft().sequence
            self._weight -= self._weights.popleft()
        if events:
            self._wake()

    def _call_listeners(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # the change is made: its caller must not fail
                _log.exception("an event could not be handled")

    @property
    def last(self) -> int:
        """The sequence number of the latest event."""
        return self._history[-1].sequence if self._history else self._floor

    async def follow(self, since: int | None = None) -> AsyncIterator[Event]:
        """Yield all events after ``since`` as they happen (without it: from now on), until the daemon stops."""
        position = self.last if since is None else since
        while not self._closed:
            if position < self._floor:
                position = self._floor
                yield Event(position, time.time(), "missed", None)
            for event in self._after(position):
                position = event.sequence
                yield event
            if position >= self.last:
                await self._published.wait()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    def _after(self, position: int) -> list[Event]:
        """Return the next events after a position, as many as one reader may hold.

        The history may drop later ones while it reads. It is read from its end, because most readers are there: to
        reach an element of a deque by its index takes time in proportion to the length.
        """
        newer = [*takewhile(lambda event: event.sequence > position, reversed(self._history))]
        if len(newer) == 1:  # the usual case
            return newer
        found: list[Event] = []
        held = 0
        for event in reversed(newer):
            held += event_weight(event)
            if found and held > AHEAD_BYTES:
                break
            found.append(event)
        return found

    def _wake(self) -> None:
        self._published.set()
        self._published = asyncio.Event()


def _sequence_number(revision: int, position: int) -> int:
    return revision * PLACES + min(position, PLACES - 1)


def _action_and_subject(each: Transition) -> tuple[str, Subject] | None:
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
