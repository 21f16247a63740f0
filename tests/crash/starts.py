"""Kills a daemon in every gap between two steps of a start, or of the removal of everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.crash.facts import Facts, difference, facts
from tests.crash.harness import CONVERGED, THOROUGH, kind_of, moments
from tests.crash.scenarios import BAR, FOO, HELD, PORTS
from tests.crash.steps import Step
from tests.crash.world import CrashWorld


class Starts:
    """One host; every method leaves it without a daemon, and as it was before."""

    def __init__(self, world: CrashWorld) -> None:
        self._world = world
        self._container = world.host.container()
        self.deaths = 0
        self.missed: list[str] = []

    def first(self) -> None:
        """The first start on a host: what was made stays with the daemon, and ``down`` takes all of it."""
        before = self._look()
        self._world.record()
        self._world.start()
        self._world.rest()
        steps, after = moments(self._world.steps()), self._look()
        self._world.down()
        self._expect("down", before)
        for step in steps:
            if self._dies(step, self._world.begin):
                self._world.start()
            self._expect(f"first start, killed {step}, started again", after)
            self._world.down()
            self._expect(f"first start, killed {step}, started again, down", before)

    def again(self) -> None:
        """A start that finds everything in place."""
        self._world.start()
        self._furnish()
        after = self._look()
        self._world.kill()
        for step in self._recorded_start():
            if self._dies(step, self._world.begin):
                self._world.start()
            self._expect(f"start, killed {step}, started again", after)
            self._world.kill()
        self._world.start()
        self._world.down()

    def after_reboot(self) -> None:
        """A start that finds the state file and nothing else."""
        self._world.start()
        self._furnish()
        self._world.kill()
        self._reboot()
        steps = self._recorded_start(alive=True)
        after = self._look()
        for step in steps:
            self._join()
            self._world.kill()
            self._reboot()
            if self._dies(step, self._world.begin):
                self._world.start()
            self._expect(f"start after a reboot, killed {step}, started again", after)
        self._world.down()

    def removal(self) -> None:
        """``down``, repeated, and ``down`` after one more start of the daemon."""
        before = self._look()
        self._rise()
        self._world.stop()
        self._world.record()
        self._world.down()
        steps = moments(self._world.steps())
        self._expect("down", before)
        for number, step in enumerate(steps):
            self._rise()
            self._world.stop()
            if self._dies(step, self._world.begin_down, ends=True):
                if number % 2:
                    self._world.start()
                self._world.down()
            self._expect(f"down, killed {step}, {'started, ' if number % 2 else ''}down again", before)

    # What is there.

    def _rise(self) -> None:
        self._world.start()
        self._furnish()

    def _furnish(self) -> None:
        api = self._world.api
        api.network("foo", **FOO)
        api.network("bar", **BAR)
        api.endpoint("foo", "web", *PORTS)
        api.endpoint("bar", "second")
        api.endpoint("bar", "third")
        self._join()

    def _join(self) -> None:
        api = self._world.api
        for container in ("c1", "c2"):
            api.post("/services/web/backend", container_id=container)
        api.join("bar", "second", "c1")
        api.join("bar", "third", "c3", netns=self._container.path)
        self._world.rest()

    def _reboot(self) -> None:
        """What a reboot takes away, by other hands than ours."""
        sh = self._world.host.sh
        for path in self._world.pinned():
            sh("umount", path)
        for name in self._world.our_links():  # one may be about to go
            sh("sh", "-c", f"ip link delete {name} || true")
        sh("nft", "flush", "ruleset")
        sh("rm", "-rf", "/run/docker", str(self._world.run))
        sh("ip", "link", "set", "lo", "down", namespace=self._container.path)
        sh("ip", "address", "flush", "dev", "lo", namespace=self._container.path)

    # Deaths.

    def _recorded_start(self, *, alive: bool = False) -> Sequence[Step]:
        self._world.record()
        self._world.start()
        self._world.rest()
        events = self._world.steps()
        self._world.control.disarm()
        if not alive:
            self._world.kill()
        kinds = {event.step: kind_of(event) for event in events}
        first = {kind: step for step, kind in reversed(kinds.items())}
        return [step for step in moments(events) if THOROUGH or first[kinds[step]] == step]

    def _dies(self, step: Step, begin: Callable[[], None], *, ends: bool = False) -> bool:
        """Whether it died there: what a start does at once may come in another order. If not, it has done its work."""
        self._world.die_at(step)
        begin()
        deadline = time.monotonic() + CONVERGED
        while self._world.is_running() and (ends or "sandnet: ready" not in self._world.log):
            assert time.monotonic() < deadline, f"neither ready nor dead: {self._world.log}"
            time.sleep(0.005)
        if not ends and not self._world.died():
            self._world.control.disarm()
            self.missed.append(str(step))
            return False
        status = self._world.ended()
        self._world.control.disarm()
        self.deaths += 1
        assert status == -9 or (ends and status == 0), self._world.log
        return status == -9

    def _look(self) -> Facts:
        return facts(self._world, theirs=[self._container.path], ports=HELD)

    def _expect(self, what: str, wanted: Facts) -> None:
        deadline = time.monotonic() + CONVERGED
        while (now := self._look()) != wanted:
            assert time.monotonic() < deadline, f"{what}\n{difference(now, wanted)}\n{self._world.log}"
