"""Kills a daemon in every gap between two steps of a start, or of the removal of everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from sandnet.config import load
from sandnet.statefile import export_state
from tests.crash.daemon_case import DEADLINE, CrashDaemon
from tests.crash.harness import CONVERGED, RECORDINGS, TRIES, deaths, may_stay_away, moments
from tests.crash.host_state import Facts, difference, facts
from tests.crash.scenarios import BAR, FOO, HELD, PORTS
from tests.crash.steps import Step


class Starts:
    """One host; every method leaves it without a daemon, and as it was before."""

    def __init__(self, daemon: CrashDaemon) -> None:
        self._daemon = daemon
        self._container = daemon.host.container()
        self.deaths = 0

    def first(self) -> None:
        """The first start on a host: what was made stays with the daemon, and ``down`` takes all of it."""
        before = self._look()
        self._daemon.record()
        self._daemon.start()
        self._daemon.rest()
        steps, after = moments(self._daemon.steps()), self._look()
        self._daemon.down()
        self._expect("down", before)
        for step in self._each(steps):
            if self._dies(step, self._daemon.begin):
                self._daemon.start()
            self._expect(f"first start, killed {step}, started again", after)
            self._daemon.down()
            self._expect(f"first start, killed {step}, started again, down", before)

    def again(self) -> None:
        """A start that finds everything in place."""
        self._daemon.start()
        self._furnish()
        after = self._look()
        self._daemon.kill()
        for step in self._each(self._recorded_start()):
            if self._dies(step, self._daemon.begin):
                self._daemon.start()
            self._expect(f"start, killed {step}, started again", after)
            self._daemon.kill()
        self._daemon.start()
        self._daemon.down()

    def after_reboot(self) -> None:
        """A start that finds the state file and nothing else."""
        self._daemon.start()
        self._furnish()
        self._daemon.kill()
        self._reboot()
        steps = self._recorded_start(alive=True)
        after = self._look()
        for step in self._each(steps):
            self._join()
            self._daemon.kill()
            self._reboot()
            if self._dies(step, self._daemon.begin):
                self._daemon.start()
            self._expect(f"start after a reboot, killed {step}, started again", after)
        self._daemon.down()

    def removal(self) -> None:
        """``down``, repeated, and ``down`` after one more start of the daemon."""
        before = self._look()
        recordings = []
        for _ in range(RECORDINGS):
            self._rise()
            self._daemon.kill()
            self._daemon.record()
            self._daemon.down()
            recordings.append(moments(self._daemon.steps()))
            self._expect("down", before)
        steps = deaths(recordings)
        by_pace = {death.step for death in steps if death.by_pace}
        for number, step in enumerate(self._each([death.step for death in steps], by_pace)):
            self._rise()
            self._daemon.kill()
            if self._dies(step, self._daemon.begin_down, ends=True):
                if number % 2:
                    self._daemon.start()
                self._daemon.down()
            self._expect(f"down, killed {step}, {'started, ' if number % 2 else ''}down again", before)

    def stop(self) -> None:
        """A stop in good order, which copies the state."""
        self._daemon.start()
        self._furnish()
        self._change()
        self._daemon.record()
        self._daemon.stop()
        steps = moments(self._daemon.steps())
        assert any(step.name.startswith("Store.backup") for step in steps)
        self._daemon.control.disarm()
        self._daemon.start()
        after = self._look()
        for step in self._each(steps):
            self._change()
            self._dies(step, self._daemon.begin_stop, ends=True)
            self._daemon.start()
            self._expect(f"stop, killed {step}, started again", after)
        self._daemon.down()

    def lost(self) -> None:
        """A start that finds everything but the state: records are made of what is in the kernel."""

        def lose() -> None:
            for path in self._daemon.state.glob("sandnet.db*"):
                path.unlink()

        self._without_state(lose)

    def damaged(self) -> None:
        """A start that finds a damaged state file, and its copy."""

        def damage() -> None:
            for part in ("-wal", "-shm"):
                Path(f"{self._daemon.state}/sandnet.db{part}").unlink(missing_ok=True)
            (self._daemon.state / "sandnet.db").write_bytes(b"nonsense" * 1000)

        self._without_state(damage, only="Store.salvage")

    def _without_state(self, lose: Callable[[], None], *, only: str = "") -> None:
        self._daemon.start()
        self._furnish()
        self._daemon.stop()  # now there is a copy
        lose()
        steps = [step for step in self._recorded_start(alive=True) if step.name.startswith(only)]
        after = _reported_of_objects(self._look())
        assert steps
        for step in self._each(steps):
            self._daemon.stop()
            lose()
            if self._dies(step, self._daemon.begin):
                self._daemon.start()
            self._expect(f"start without the state, killed {step}, started again", after, _reported_of_objects)
        self._daemon.down()

    def imported(self) -> None:
        """``sandnet state import`` over a state that is another one."""
        self._daemon.start()
        self._furnish()
        old = _reported_of_objects(self._look())
        self._change(keep=True)
        new = _reported_of_objects(self._look())
        config = load(str(self._daemon.folder / "config.toml"), {"state_dir": str(self._daemon.state)})
        export_state(config, str(self._daemon.folder / "document"))
        self._daemon.api.delete("/networks/changed")
        self._daemon.stop()
        self._daemon.record()
        self._daemon.begin_import()
        assert self._daemon.ended() == 0, self._daemon.log
        steps = moments(self._daemon.steps())
        self._daemon.control.disarm()
        for step in self._each(steps):
            self._daemon.start()
            if "changed" in self._names():
                self._daemon.api.delete("/networks/changed")
            self._daemon.stop()
            self._dies(step, self._daemon.begin_import, ends=True)
            self._daemon.start()
            self._expect(f"import, killed {step}", new if "changed" in self._names() else old, _reported_of_objects)
            self._daemon.stop()
        self._daemon.down()

    # What is there.

    def _names(self) -> list[str]:
        return [net["name"] for net in self._daemon.api.get("/networks")]

    def _change(self, *, keep: bool = False) -> None:
        self._daemon.api.network("changed", subnet="10.9.7.0/24")
        if not keep:
            self._daemon.api.delete("/networks/changed")

    def _rise(self) -> None:
        self._daemon.start()
        self._furnish()

    def _furnish(self) -> None:
        api = self._daemon.api
        api.network("foo", **FOO)
        api.network("bar", **BAR)
        api.endpoint("foo", "web", *PORTS)
        api.endpoint("bar", "second")
        api.endpoint("bar", "third")
        self._join()

    def _join(self) -> None:
        api = self._daemon.api
        for container in ("c1", "c2"):
            api.post("/services/web/backend", container_id=container)
        api.join("bar", "second", "c1")
        api.join("bar", "third", "c3", netns=self._container.path)

    def _reboot(self) -> None:
        """What a reboot takes away, by other hands than ours."""
        sh = self._daemon.host.sh
        for path in self._daemon.pinned():
            sh("umount", path)
        gone = "; ".join(f"ip link set {name} group 77" for name in self._daemon.our_links())
        sh("sh", "-c", f"{gone}; ip link delete group 77; true")  # one request for all; one may be about to go
        sh("nft", "flush", "ruleset")
        sh("rm", "-rf", "/run/docker", str(self._daemon.run))
        sh("ip", "link", "set", "lo", "down", namespace=self._container.path)
        sh("ip", "address", "flush", "dev", "lo", namespace=self._container.path)

    # Deaths.

    def _recorded_start(self, *, alive: bool = False) -> Sequence[Step]:
        self._daemon.record()
        self._daemon.start()
        self._daemon.rest()
        events = self._daemon.steps()
        self._daemon.control.disarm()
        if not alive:
            self._daemon.kill()
        return moments(events)

    def _each(self, steps: Sequence[Step], by_pace: Collection[Step] = ()) -> Iterator[Step]:
        """Each of them until the daemon died there: what is done at once may come in another order.

        Args:
            steps: where to kill it.
            by_pace: those that may stay away, as not each recording has them.
        """
        for step in steps:
            for _ in range(TRIES):
                before = self.deaths
                yield step
                if self.deaths > before or may_stay_away(step) or step in by_pace:
                    break
            else:
                raise AssertionError(f"{step} did not come again in {TRIES} tries")

    def _dies(self, step: Step, begin: Callable[[], None], *, ends: bool = False) -> bool:
        """Whether it died there; if not, it has done its work.

        Args:
            step: where.
            begin: what begins it.
            ends: it ends by itself, and does not serve.
        """
        self._daemon.die_at(step)
        begin()
        deadline = time.monotonic() + DEADLINE
        while self._daemon.is_running() and (ends or "sandnet: ready" not in self._daemon.log):
            assert time.monotonic() < deadline, f"neither ready nor dead: {self._daemon.log}"
            time.sleep(0.002)
        if not ends and not self._daemon.died():
            self._daemon.control.disarm()
            return False
        status = self._daemon.ended()
        self._daemon.control.disarm()
        assert status == -9 or (ends and status == 0), self._daemon.log
        self.deaths += status == -9
        return status == -9

    def _look(self) -> Facts:
        return facts(self._daemon, theirs=[self._container.path], ports=HELD)

    def _expect(self, what: str, wanted: Facts, seen: Callable[[Facts], Facts] = lambda found: found) -> None:
        deadline = time.monotonic() + CONVERGED
        while (now := seen(self._look())) != wanted:
            assert time.monotonic() < deadline, f"{what}\n{difference(now, wanted)}\n{self._daemon.log}"


def _reported_of_objects(found: Facts) -> Facts:
    """Without what reports that the state was lost, and when, and which event was the last."""
    reported = tuple(line for line in found["api"] if not line.startswith("healthz"))
    return {**found, "api": reported, "store": tuple(line for line in found["store"] if not line.startswith("event/"))}
