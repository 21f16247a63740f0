"""The processes of the in-memory kernel: numbers of processes that tests start and end."""

from __future__ import annotations

import os
from contextlib import suppress

from sandnet.errors import Error, Kind
from sandnet.kernel.fake.common import FaultInjector, recorded


class FakeProcessHandle:
    """See :class:`sandnet.kernel.observation.ProcessHandle`.

    It is a pipe that is never written to; the exit of the process closes its other end.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """Return the end that becomes readable; -1 once closed."""
        return self._reader

    def end(self, *, force: bool = False) -> None:
        """End the process at once: a fake one obeys."""
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def close(self) -> None:
        """Close both ends."""
        self.end()
        with suppress(OSError):
            os.close(self._reader)
        self._reader = -1


class FakeProcesses:
    """See :class:`sandnet.kernel.observation.Processes`."""

    area = "processes"

    def __init__(self, faults: FaultInjector) -> None:
        self.faults = faults
        self._running: dict[int, int] = {}
        self._watched: dict[int, list[FakeProcessHandle]] = {}
        self._ticks = 0
        self.inside: dict[int, int] = {}
        """By process: the inode of its network namespace, where a test set one."""
        self.containers: dict[str, int] = {}
        """By id of a container: its first process, where a test set one."""

    def begin(self, pid: int, *, inode: int = 0) -> int:
        """Start a process, in a network namespace if ``inode`` is given, and return its start time."""
        with self.faults.lock:
            self._ticks += 1
            self._running[pid] = self._ticks
            if inode:
                self.inside[pid] = inode
            return self._ticks

    def end(self, pid: int) -> None:
        """End a process."""
        with self.faults.lock:
            self._running.pop(pid)
            self.inside.pop(pid, None)
            for watched in self._watched.pop(pid, ()):
                watched.end()

    @recorded
    def started(self, pid: int) -> int | None:
        """Return when it began; ``None``: there is none."""
        return self._running.get(pid)

    @recorded
    def watch(self, pid: int, started: int) -> FakeProcessHandle | None:
        """Return a pipe that ends with the process; ``None``: it has exited."""
        if self._running.get(pid) != started:
            return None
        watched = FakeProcessHandle()
        self._watched.setdefault(pid, []).append(watched)
        return watched

    @recorded
    def namespaces(self) -> frozenset[int]:
        """Return the namespaces in which tests put processes."""
        return frozenset(self.inside.values())

    @recorded
    def of_container(self, reference: str) -> int:
        """Return the process that a test set for a container whose id begins so."""
        found = [pid for identifier, pid in self.containers.items() if identifier.startswith(reference)]
        if len(found) != 1:
            kind, code = (Kind.INVALID, "ambiguous") if found else (Kind.NOT_FOUND, "container_not_running")
            raise Error(kind, f"{len(found)} containers have the id {reference}", code=code)
        return found[0]
