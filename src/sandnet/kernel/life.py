"""What the program asks of Linux about processes. A part of ``base``, whose words on all parts hold here too."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol


class Watched(Protocol):
    """A process that is waited for: its descriptor is readable once the process has ended."""

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        ...

    def end(self, *, force: bool = False) -> None:
        """Ask the process to end (SIGTERM), or end it (SIGKILL). One that has ended is success."""
        ...

    def close(self) -> None:
        """Stop waiting; a second call does nothing."""
        ...


class Processes(Protocol):
    """Processes of the machine, each told from a later one of the same number by when it started."""

    def started(self, pid: int) -> int | None:
        """When the process began, in clock ticks since boot (proc_pid_stat(5), field 22); ``None``: there is none.

        Raises:
            Error: ``INVALID`` with code ``not_a_process``: the number is a thread's; ``UNAVAILABLE`` no descriptor is
                free.
        """
        ...

    def watch(self, pid: int, started: int) -> Watched | None:
        """Wait for the process that began then; ``None``: it has ended. One that nobody has reaped has ended too.

        Raises:
            Error: ``UNAVAILABLE`` no descriptor is free.
        """
        ...

    def namespaces(self) -> Set[int]:
        """Inode numbers of the network namespaces that processes are in, by their main threads.

        Raises:
            Error: ``UNAVAILABLE`` it cannot be found out, as when no descriptor is free.
        """
        ...
