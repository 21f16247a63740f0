"""The daemon under test, and its REST interface."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from bench.host import Namespace, host_links, stop, wait_until
from bench.rest import JSON, Connection

SANDNET = Path(sys.executable).with_name("sandnet")
START_DEADLINE = 120.0
"""Seconds; a start with a thousand endpoints to restore is part of what is measured."""

CLEAN_DEADLINE = 60.0
"""Seconds after which a link that is still there is a fault, not a figure."""

LOG_LINES = 40
"""Of the daemon's log, shown when something failed."""


class Daemon:
    """A daemon with directories and a host namespace of its own.

    Args:
        program: the words of the command that it is a part of.
        prepared: how many sandboxes it prepares ahead of joins; ``None``: as many as it does by default.
        settings: further lines of its configuration.
        sandbox_dir: where it pins namespaces; ``None``: in a directory of its own.
    """

    def __init__(
        self,
        program: Sequence[str] = (str(SANDNET),),
        prepared: int | None = None,
        settings: str = "",
        sandbox_dir: str | None = None,
    ) -> None:
        self._program = program
        self._prepared = prepared
        self._settings = settings
        self._sandbox_dir = sandbox_dir
        self.directory = Path(tempfile.mkdtemp(prefix="sandnet-bench-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self._linked = self.directory / "linked"
        self._linked.symlink_to(self.directory)  # as /var/run, where sandboxes are by default
        self.host = Namespace()
        self._memory = Path(tempfile.mkdtemp(prefix="sandnet-bench-", dir="/dev/shm"))
        self._memory.chmod(0o755)
        self.socket = self._memory / "run-dir" / "sandnet.sock"
        self.rest = Connection(str(self.socket))
        self.started = 0.0
        """Seconds that its first start took."""
        self.bare_links = 0
        """Links of its host when it has nothing but the predefined networks."""

    def start(self) -> float:
        """Start the daemon; the seconds until it answers.

        Nothing is on its ``PATH``: a program that it tried to run would not be found.
        """
        nothing = self.directory / "empty"
        nothing.mkdir(exist_ok=True)
        command = [*self._program, "daemon", *self._flags()]
        begun = time.perf_counter()
        self.process = self.host.start(command, self.directory / "log", {"PATH": str(nothing), "LANG": "C.UTF-8"})
        wait_until(self._answers, START_DEADLINE, "the daemon does not answer")
        return time.perf_counter() - begun

    def _flags(self) -> list[str]:
        settings = self.directory / "settings.toml"
        prepared = "" if self._prepared is None else f"prepared_sandboxes = {self._prepared}\n"
        settings.write_text(prepared + self._settings)
        places = {
            "state-dir": str(self.directory / "state-dir"),
            "sandbox-dir": self._sandbox_dir or str(self._linked / "sandbox-dir"),
            "run-dir": str(self._memory / "run-dir"),
        }
        return [*(word for name, place in places.items() for word in (f"--{name}", place)), "--config", str(settings)]

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended:\n{''.join(self._log_lines()[-LOG_LINES:])}")
        with closing(Connection(str(self.socket))) as probe:
            try:
                probe.ask("GET", "/networks?name=bridge")
            except OSError:
                return False
        return True

    def _log_lines(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines(keepends=True)

    def stop(self) -> float:
        """Stop it as the service manager would; the seconds that took."""
        self.rest.close()
        begun = time.perf_counter()
        stop(self.process)
        return time.perf_counter() - begun

    def restart(self, *, killed: bool = False) -> float:
        """End it, in order or by SIGKILL, and start it again; the seconds the start took."""
        if killed:
            self.rest.close()
            self.process.kill()
            self.process.wait()
        else:
            self.stop()
        return self.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def links(self) -> int:
        """How many links its host namespace has, without those of prepared sandboxes."""
        return len(host_links(self.pid)) - int(self._pool().get("ready", 0))

    def until_prepared(self) -> None:
        """Wait until the pool of prepared sandboxes is full."""
        wait_until(self._is_prepared, CLEAN_DEADLINE, "the pool of prepared sandboxes is not filled")

    def _is_prepared(self) -> bool:
        pool = self._pool()
        return bool(pool["ready"] >= pool["target"])

    def _pool(self) -> dict[str, JSON]:
        """Return the state of the pool of prepared sandboxes; empty: there is none."""
        return cast(dict[str, JSON], self.rest.ask("GET", "/healthz?verbose=true").get("prepared_sandboxes") or {})

    def processor_time(self) -> float:
        """Return the seconds that the daemon and what it started (resolver, preparer) have computed so far."""
        return sum(map(processor_time, [self.pid, *_started_by(self.pid, str(self._memory / "run-dir"))]))

    def until_links(self, number: int) -> float:
        """Wait until its host has no more links than that; the seconds that took."""
        return wait_until(lambda: self.links() <= number, CLEAN_DEADLINE, f"more than {number} links")

    # What the reference offers.

    def network(self, name: str, **options: JSON) -> str:
        """Create a bridge network; its id."""
        return str(self.rest.ask("POST", "/networks", {"name": name, "options": options}))

    def delete_network(self, network: str) -> None:
        """Delete a network."""
        self.rest.ask("DELETE", f"/networks/{network}")

    def endpoint(self, network: str, name: str, **more: JSON) -> str:
        """Create an endpoint; its id."""
        return str(self.rest.ask("POST", f"/networks/{network}/endpoints", {"name": name, **more}))

    def delete_endpoint(self, network: str, endpoint: str) -> None:
        """Delete an endpoint."""
        self.rest.ask("DELETE", f"/networks/{network}/endpoints/{endpoint}")

    def join(self, network: str, endpoint: str, container: str) -> str:
        """Join a container; the path of its namespace."""
        path = f"/networks/{network}/endpoints/{endpoint}/containers"
        return str(self.rest.ask("POST", path, {"container_id": container}))

    def leave(self, network: str, endpoint: str, container: str) -> None:
        """Take a container off its endpoint."""
        self.rest.ask("DELETE", f"/networks/{network}/endpoints/{endpoint}/containers/{container}")

    def check(self) -> None:
        """Compare all records with the kernel, as ``sandnet doctor`` does.

        Raises:
            RuntimeError: they differ.
        """
        drift = self.rest.ask("POST", "/reconcile", {"fix": False})["drift"]
        if drift:
            raise RuntimeError(f"the kernel differs from the records: {drift}")

    # The end.

    def __enter__(self) -> Self:
        try:
            self.started = self.start()
        except BaseException:
            stop(self.process)
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self.bare_links = self.links()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            print("".join(self._log_lines()[-LOG_LINES:]), file=sys.stderr)
        self.stop()
        self.host.run([str(SANDNET), "down", *self._flags()])
        self.host.close()
        shutil.rmtree(self.directory)
        shutil.rmtree(self._memory)


def _started_by(pid: int, run_directory: str) -> Iterator[int]:
    """Yield the daemon's children, and its resolver, whose parent has ended."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid or (b"sandnet.resolver" in words and run_directory.encode() in words):
                yield int(path.name)


def processor_time(pid: int) -> float:
    """Return the seconds that all threads of a process have computed, ended ones included (proc(5): ``stat``)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
