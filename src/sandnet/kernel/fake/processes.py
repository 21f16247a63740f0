"""The processes of the in-memory kernel: numbers that tests let begin and end."""

from __future__ import annotations

import os
from contextlib import suppress

from sandnet.kernel.fake.common import FaultInjector, recorded


class FakeProcessHandle:
    """See :class:`sandnet.kernel.observation.ProcessHandle`.

    It is a pipe that is never written to; the end of the process closes its other end.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """The end that becomes readable; -1 once closed."""
        return self._reader

    def end(self, *, force: bool = False) -> None:
        """The process has ended: fake ones obey."""
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def close(self) -> None:
        """Both ends."""
        self.end()
        with suppress(OSError):
            os.close(self._reader)
        self._reader = -1


class FakeProcesses:
    """See :class:`sandnet.kernel.observation.Processes`."""

    area = "processes"

    def __init__(self, mishaps: FaultInjector) -> None:
        self.mishaps = mishaps
        self._alive: dict[int, int] = {}
        self._watched: dict[int, list[FakeProcessHandle]] = {}
        self._ticks = 0
        self.inside: dict[int, int] = {}
        """By process: the inode of the network namespace it is in, where a test says so."""

    def begin(self, pid: int, *, inode: int = 0) -> int:
        """Let a process begin, in a network namespace if told; when it did."""
        with self.mishaps.lock:
            self._ticks += 1
            self._alive[pid] = self._ticks
            if inode:
                self.inside[pid] = inode
            return self._ticks

    def end(self, pid: int) -> None:
        """Let a process end."""
        with self.mishaps.lock:
            self._alive.pop(pid)
            self.inside.pop(pid, None)
            for watched in self._watched.pop(pid, ()):
                watched.end()

    @recorded
    def started(self, pid: int) -> int | None:
        """When it began; ``None``: there is none."""
        return self._alive.get(pid)

    @recorded
    def watch(self, pid: int, started: int) -> FakeProcessHandle | None:
        """A pipe that ends with the process; ``None``: it has ended."""
        if self._alive.get(pid) != started:
            return None
        watched = FakeProcessHandle()
        self._watched.setdefault(pid, []).append(watched)
        return watched

    @recorded
    def namespaces(self) -> frozenset[int]:
        """Those that tests put processes in."""
        return frozenset(self.inside.values())
