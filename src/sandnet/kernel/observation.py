"""What the program asks of Linux about processes. A part of ``base``, whose words on all parts hold here too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Protocol

from sandnet.kernel.types import Changes, NamespaceState, PinnedNamespace


class ProcessHandle(Protocol):
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

    def watch(self, pid: int, started: int) -> ProcessHandle | None:
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


class Watcher(Protocol):
    """Hears of changes. Synchronous; called on worker threads, by one at a time."""

    def read(self) -> Changes:
        """What has gathered since the last call; the first one begins."""
        ...

    def namespaces(self) -> Mapping[str, int]:
        """By link of the host: the number of the namespace its other end is in, as far as we heard."""
        ...

    def name(self, index: int) -> str:
        """The host's link of that index, as far as we heard; empty: none."""
        ...


class StateReader(Protocol):
    """Reads many things at once. Synchronous; called on worker threads."""

    def host(self, only: str = "") -> NamespaceState:
        """The host's own namespace, or one link of it with its addresses and routes."""
        ...

    def uplinks(self) -> Collection[tuple[int, str]]:
        """Return the links of the host by which a whole half of the addresses or more is reached.

        A default route may have several ways, no gateway, or a table of its own; VPN clients make it of two halves.

        Returns:
            The version of IP, and the name of the link.
        """
        ...

    def neighbour_overflows(self) -> Mapping[int, int]:
        """Return how often the kernel had no room for one more neighbour, by version of IP.

        The table is one for all network namespaces; only the first namespace can read this.
        """
        ...

    def inside(self, keys: Sequence[str], *, ipv6: bool = True) -> list[PinnedNamespace | None]:
        """What is pinned at each of these keys, in order; ``None``: no namespace, or one that cannot be read.

        Args:
            keys: paths below the sandbox directory.
            ipv6: whether IPv6 routes are wanted.
        """
        ...

    def pinned(self) -> frozenset[str]:
        """Paths below the sandbox directory on which something is mounted."""
        ...

    def process_in(self, inode: int) -> int:
        """A process in the network namespace of that identity; 0: none."""
        ...

    def mount_path_of(self, inode: int) -> str:
        """A path at which the network namespace of that identity is mounted; empty: none."""
        ...
