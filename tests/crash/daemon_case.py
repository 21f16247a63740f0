"""A host whose daemons are forked, and can be instructed where to die."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.crash.steps import Control, Event, Step, read_trace
from tests.support.daemon import Api, RunningDaemon
from tests.support.network_host import eventually

READY = 40.0
"""Seconds that a daemon may take from its fork until it serves, after whatever crash. It takes 0.1 to 0.3 s, and 3 s
where six others use each processor."""
QUIET = 0.15
"""Seconds without a step after which an operation's background work is done (the reaper waits for 0.05)."""
DEADLINE = 30.0
"""Seconds for what takes a moment."""


class Calls(Api):
    """The REST interface, with every request noted."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket)
        self.made: list[tuple[str, str]] = []
        """Methods and paths."""

    def _call(self, method: str, path: str, **how: Any) -> Any:
        self.made.append((method, path))
        return super()._call(method, path, **how)


class PluginCalls(Api):
    """The plugin socket."""

    def call(self, verb: str, **fields: Any) -> Any:
        """The answer to a verb."""
        answer = self.post(f"/{verb}", **fields)
        assert not answer.get("Err"), f"{verb}: {answer}"
        return answer


class CrashDaemon(RunningDaemon):
    """Its sandboxes are pinned where they are by default, so that directories made on the way there count too."""

    _child = 0

    def __init__(self, folder: Path, *, dns: bool = False) -> None:
        super().__init__(folder, dns=dns)
        self.netns = Path("/run/docker/netns")
        self.api: Calls = Calls(self.run / "sandnet.sock")
        self.control = Control(folder / "control")
        self._trace = folder / "trace"
        self.plugin = PluginCalls(self.run / "plugin.sock")
        config = folder / "config.toml"
        self.plugins = folder / "plugins"
        own = f'plugin_socket = "{self.run}/plugin.sock"\nplugin_dirs = ["{self.plugins}"]\n'
        config.write_text(config.read_text() + own)
        self._pool = self._start_pool()
        self._watched = -1
        self._last_step = 0

    def _start_pool(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.crash.daemon_pool"]
        pipe = subprocess.PIPE
        return self.host.run(
            lambda: subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[2])
        )

    def _ask(self, **request: Any) -> int:
        assert self._pool.stdin
        assert self._pool.stdout
        self._pool.stdin.write(json.dumps(request) + "\n")
        self._pool.stdin.flush()
        return int(json.loads(self._pool.stdout.readline()))

    def _fork(self, what: str) -> None:
        assert not self._child
        (self.folder / "log").write_bytes(b"")
        overrides = {"state_dir": str(self.state), "run_dir": str(self.run), "sandbox_dir": str(self.netns)}
        config = str(self.folder / "config.toml")
        self._child = self._ask(do=what, folder=str(self.folder), config=config, overrides=overrides)
        self._watched = os.pidfd_open(self._child)

    # The daemon.

    def start(self, *options: str, through: Sequence[str] = ()) -> None:
        """Start the daemon and wait until it serves."""
        assert not options
        assert not through
        self.begin()
        eventually(self.is_serving, READY)

    def begin(self) -> None:
        """Start the daemon; it may die on its way."""
        self._fork("daemon")

    def begin_down(self) -> None:
        """Start removing everything; it may die on its way."""
        self._fork("down")

    def begin_import(self) -> None:
        """Start importing the document in the folder; it may die on its way."""
        self._fork("import")

    def begin_stop(self) -> None:
        """Tell the daemon to stop; it may die on its way."""
        os.kill(self._child, 15)

    def is_serving(self) -> bool:
        """Whether it reported so.

        Raises:
            AssertionError: it is dead.
        """
        ready = "sandnet: ready" in self.log
        assert self.is_running(), f"the daemon ended: {self.log}"
        return ready

    def is_running(self) -> bool:
        return bool(self._child) and not self._has_ended(0)

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._watched], [], [], seconds)[0])

    def ended(self) -> int:
        """Wait for the end of the process; its exit status, negative when it was a signal."""
        assert self._has_ended(DEADLINE), f"it goes on: {self.log}"
        os.close(self._watched)
        child, self._child = self._child, 0
        return self._ask(do="wait", pid=child)

    def died(self) -> bool:
        """Whether the process dies before it comes to rest."""
        resting = self._last_trace()
        while not self._has_ended(QUIET):
            if (now := self._last_trace()) == resting:
                return False
            resting = now
        return True

    def stop(self) -> None:
        os.kill(self._child, 15)
        assert self.ended() == 0, self.log

    def kill(self) -> None:
        os.kill(self._child, 9)
        self.ended()

    def down(self) -> None:
        """All away again."""
        if self._child:
            self.stop()
        self.begin_down()
        assert self.ended() == 0, self.log

    def clear(self) -> None:
        """All away, and nothing left."""
        self.down()
        self.stack.close()
        left = [f"{set(now) ^ set(then)}" for now, then in zip(self.facts(), self.before, strict=True) if now != then]
        assert not left, left

    def close(self) -> None:
        if self._child:
            self.kill()
        with self._pool as pool:  # it ends when its input does
            assert pool.stdin
            pool.stdin.close()
        super().close()

    def host_link(self, container: str) -> str:
        """The host's end of the one pair that a container has."""
        inside = json.loads(self.host.sh("ip", "-j", "link", namespace=f"{self.netns}/{container}"))
        index = next(link["link_index"] for link in inside if link["ifname"] == "eth0")
        return next(
            str(each["ifname"]) for each in json.loads(self.host.sh("ip", "-j", "link")) if each["ifindex"] == index
        )

    # Its steps.

    def _last_trace(self) -> int:
        return self._trace.stat().st_size

    def rest(self) -> None:
        """Wait until no step was made for a while."""
        assert not self.died(), f"the daemon ended: {self.log}"

    def steps(self) -> list[Event]:
        """Since it was armed."""
        return read_trace(self._trace)

    def last_steps(self, count: int = 12) -> list[str]:
        """The newest, in words."""
        return [f"{event.step}: {event.label}" for event in self.steps()[-count:]]

    def record(self) -> None:
        """Record from now on."""
        self.control.arm(None)

    def die_at(self, step: Step) -> None:
        """Record, and die there."""
        self.control.arm(step)
