"""Kills the daemon in every gap between two steps of a call, and looks at what comes of it."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import httpx

from tests.crash.coverage import is_of, operations_of
from tests.crash.daemon_case import READY, CrashDaemon
from tests.crash.host_state import Facts, difference, facts
from tests.crash.scenarios import Call, Setting
from tests.crash.steps import Event, Step
from tests.support.daemon import RefusedError

THOROUGH = os.environ.get("SANDNET_CRASH") == "thorough"
"""Die at every moment of the start after each death, where it does anything new, arguments and all; not only at each
new kind of step."""
CONVERGED = 30.0
"""Seconds after which kernel and store must be equal."""
TRIES = 8
"""How often a moment is waited for. What is done at once comes in another order now and then; one that never comes
fails the test."""
RECORDINGS = 3
"""How often the steps of a call are recorded. A step that is missing in one of the recordings depends on the pace of
the kernel or of another process: a link is retired only where the kernel has not deleted it yet. The daemon is killed
at such a step, too, but the step may stay away."""
SECOND_MISSES = 0.1
"""Share of second deaths, in the start after a death, that may not come. What that start has to clean up depends on how
far the killed daemon's other threads and the kernel came by then, so it is not the same each time. (What every start
does is interrupted in ``starts``, and there, as in calls, none may be missed.)"""
GATHERED = frozenset({"Links.reap", "Firewall.forget_flows"})
"""Work that is gathered in the background (``kernel.rounds``). How often it is done depends on how much came while it
was being done: the first time must come, a further one may not."""
BY_DEMAND = frozenset({"SandboxPool.prepare", "SandboxPool.discard"})
"""What a join does itself when the pool of prepared sandboxes is empty, which depends on the pace of the process that
fills it. ``test_join_without_a_pool_is_atomic_across_a_kill_at_any_step`` interrupts it each time."""

_RANDOM = re.compile(r"[0-9a-f]{10,}|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|thread-\\d+|\\d+\\.\\d+\\.\\d+\\.\\d+|fd/\\d+")


class Death(NamedTuple):
    """Where the daemon is to die: in a call, and perhaps once more in the start that follows."""

    step: Step
    again: Step | None = None
    tries: int = TRIES
    """How often it is waited for."""
    by_pace: bool = False
    """Whether not each recording of the call has the step."""

    def __str__(self) -> str:
        return f"{self.step}" + (f", then in the restart {self.again}" if self.again else "")


def moments(events: Sequence[Event]) -> list[Step]:
    """One edge for each gap between two steps: the moment after one is the moment before the next.

    A step that consists of steps begins with the first of them and ends with the last.
    """
    found = []
    for event, following in zip(events, [*events[1:], None], strict=True):
        same_lane = following is not None and following.lane == event.lane
        begins_next = following is not None and following.step.edge != "end"
        if event.step.edge == "end":
            superfluous = begins_next or same_lane
        else:
            superfluous = event.step.edge == "begin" and begins_next and same_lane
        if not superfluous:
            found.append(event.step)
    return found


def deaths(recordings: Sequence[Sequence[Step]]) -> deque[Death]:
    """Return a death for each step that one of the recordings has, in their order."""
    steps = dict.fromkeys(step for recording in recordings for step in recording)
    return deque(Death(step, by_pace=any(step not in each for each in recordings)) for step in steps)


def may_stay_away(step: Step) -> bool:
    """Return whether a moment of a call or a start does not come each time, see ``GATHERED`` and ``BY_DEMAND``."""
    work = step.name.partition("/")[0]
    return work in BY_DEMAND or (step.nth > 1 and work in GATHERED)


class Harness:
    """One scenario on one host."""

    def __init__(self, daemon: CrashDaemon, setting: Setting) -> None:
        self._daemon = daemon
        self._name = setting.__name__
        self._operations = operations_of(setting)
        self._stage = setting(daemon)
        self._known: set[str] = set()
        """What a start does when nothing has to be cleaned up: tried by a scenario of its own."""
        self.deaths = 0
        self.double = 0
        self.missed: list[str] = []
        self.interrupted: set[str] = set()
        """The names of the steps at which the daemon died."""
        self.slowest = 0.0

    def run(self) -> None:
        """Every gap of both calls, by turns; then those of the starts that had something to clean up."""
        self._daemon.api.made.clear()
        self._stage.forth()  # the host's own parameters and directories are changed once
        self._stage.back()
        calls = [*self._daemon.api.made]
        rest = [each for each in self._operations if " " in each]  # verbs of engines go to another socket
        wrong = [each for each in rest if not any(is_of(each, *call) for call in calls)]
        assert not wrong, f"{wrong} are not among {calls}"
        self._daemon.rest()
        undone = self._look()
        recordings = [self._recorded(self._stage.forth)]
        done = self._look()
        assert difference(done, undone) or not self._stage.differs, "the call changes nothing"
        recordings_back = [self._recorded(self._stage.back)]
        self._expect("back again", undone)
        for _ in range(RECORDINGS - 1):
            recordings.append(self._recorded(self._stage.forth))
            recordings_back.append(self._recorded(self._stage.back))
            self._expect("back again", undone)
        forth = deaths(recordings)
        back = deaths(recordings_back if self._stage.back_is_one else [])
        self._learn_start()
        self._stage.forth()
        self._learn_start()
        self._expect("after a restart", done)
        self._stage.back()
        self._expect("back again", undone)
        while forth or back:
            self._one("forth", self._stage.forth, forth, undone, done)
            self._one("back", self._stage.back, back, done, undone)
        print(f"{self._name}: {self.deaths} deaths, {self.double} of them twice, {len(self.missed)} missed")

    def _recorded(self, call: Call) -> list[Step]:
        self._daemon.record()
        call()
        self._daemon.rest()
        self._daemon.control.disarm()
        return moments(self._daemon.steps())

    def _learn_start(self) -> None:
        self._daemon.kill()
        self._daemon.record()
        self._daemon.start()
        self._daemon.rest()
        self._known |= {kind_of(event) for event in self._daemon.steps()}
        self._daemon.control.disarm()

    def _one(self, direction: str, call: Call, queue: deque[Death], before: Facts, after: Facts) -> None:
        """One death of the call, if there is one left; then the call is done in any case."""
        if not queue:
            call()
            self._expect("after a call nobody interrupted", after)
            return
        death = queue.popleft()
        try:
            queue.extendleft(reversed(self._die(call, death, before, after)))
        except AssertionError as failure:
            raise AssertionError(self._report(direction, death, failure)) from failure

    def _die(self, call: Call, death: Death, before: Facts, after: Facts) -> list[Death]:
        if not self._interrupt(call, death.step):
            self._expect("after a call that did not come to the moment", after)
            return self._once_more(death)
        missed = death.again is not None and not self._interrupt_start(death.again)
        more = self._once_more(death) if missed else self._start(death)
        self.deaths += 1
        self.double += bool(death.again)
        was_done = self._settled(before, after)
        refused = _refusal(call)
        assert not refused or (was_done and refused.status < 500), f"repeating the call: {refused}"
        self._expect("after repeating the call", after)
        return more

    def _interrupt(self, call: Call, step: Step) -> bool:
        """Whether it died: what runs beside the call may come in another order."""
        self._daemon.die_at(step)
        with suppress(httpx.TransportError):
            call()
        return self._has_died(step)

    def _interrupt_start(self, step: Step) -> bool:
        """The same of a start; when it did not die, it serves."""
        self._daemon.die_at(step)
        self._daemon.begin()
        deadline = time.monotonic() + READY
        while self._daemon.is_running() and "sandnet: ready" not in self._daemon.log:
            assert time.monotonic() < deadline, f"not ready in time: {self._daemon.log}"
            time.sleep(0.005)
        return self._has_died(step)

    def _has_died(self, step: Step) -> bool:
        """Return whether it died, also where a busy machine came to the step only after it had seemed to be at rest.

        A process that has noted the step is about to kill itself, if this is not from an earlier call.
        """
        died = self._daemon.died()
        self._daemon.control.disarm()
        if not died and step in [event.step for event in self._daemon.steps()]:
            died = self._daemon.died()
        if died or not self._daemon.is_running():
            assert self._daemon.ended() == -9, self._daemon.log
            self.interrupted.add(step.name)
            return True
        return False

    def _once_more(self, death: Death) -> list[Death]:
        """What is left to do of a death that did not come."""
        if death.tries > 1:
            return [death._replace(tries=death.tries - 1)]
        if may_stay_away(death.again or death.step) or (death.by_pace and not death.again):
            return []
        self.missed.append(str(death))
        assert death.again, f"it did not come in {TRIES} tries"
        assert len(self.missed) <= 1 + SECOND_MISSES * self.double, f"too many did not come: {self.missed}"
        return []

    def _start(self, death: Death) -> list[Death]:
        """Start the daemon; where to die next time: in what this start did and none did before."""
        self._daemon.record()
        started = time.monotonic()
        self._daemon.start()
        self.slowest = max(self.slowest, time.monotonic() - started)
        self._daemon.control.disarm()
        if death.again or not (self._stage.twice or THOROUGH):
            return []
        events = self._daemon.steps()
        steps = {str(step) for step in moments(events)}
        fresh = [event for event in events if kind_of(event) not in self._known and str(event.step) in steps]
        self._known |= {kind_of(event) for event in events}
        return [death._replace(again=event.step) for event in fresh]

    def _settled(self, before: Facts, after: Facts) -> bool:
        """Wait until all is as before or after the call; whether it is done."""
        deadline = time.monotonic() + CONVERGED
        while True:
            now = self._look()
            if now == before:
                return False
            if now == after:
                return True
            if time.monotonic() > deadline:
                nearer = min((before, after), key=lambda wanted: len(difference(now, wanted)))
                which = "undone" if nearer is before else "done"
                raise AssertionError(f"neither done nor undone; nearest to {which}:\n{difference(now, nearer)}")

    def _expect(self, when: str, wanted: Facts) -> None:
        deadline = time.monotonic() + CONVERGED
        while (now := self._look()) != wanted:
            assert time.monotonic() < deadline, f"{when}:\n{difference(now, wanted)}"

    def _look(self) -> Facts:
        return facts(self._daemon, theirs=self._stage.theirs, ports=self._stage.ports)

    def _report(self, direction: str, death: Death, failure: AssertionError) -> str:
        steps = "\n".join(f"    {line[:200]}" for line in self._daemon.last_steps())
        return (
            f"{self._name}, {direction}, killed {death}\n{failure}\n  the last steps:\n{steps}\n"
            f"  the daemon's log:\n{self._daemon.log}"
        )


def _refusal(call: Call) -> RefusedError | None:
    try:
        call()
    except RefusedError as refused:
        return refused
    return None


def kind_of(event: Event) -> str:
    """What makes it worth a death of its own among those of a start: its name; in the long run its arguments too,
    without what is chosen at random."""
    return json.dumps([event.step.edge, event.step.name, _RANDOM.sub("#", event.label) if THOROUGH else ""])
