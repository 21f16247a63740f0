"""What the program reads from Linux: processes, changes, and states in bulk.

A part of ``base``; its rules hold here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Protocol

from sandnet.kernel.types import Changes, NamespaceState, PinnedNamespace


class ProcessHandle(Protocol):
    """A watched process: its descriptor is readable once the process has exited."""

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        ...

    def end(self, *, force: bool = False) -> None:
        """Ask the process to exit (SIGTERM), or kill it (SIGKILL). One that has exited is success."""
        ...

    def close(self) -> None:
        """Stop waiting; a second call does nothing."""
        ...


class Processes(Protocol):
    """Processes of the machine. The start time distinguishes a process from a later one with the same number."""

    def started(self, pid: int) -> int | None:
        """Return when the process began, in clock ticks since boot (proc_pid_stat(5), field 22), or ``None``.

        Raises:
            Error: ``INVALID`` with code ``not_a_process``: the number is a thread's; ``UNAVAILABLE`` no descriptor is
                free.
        """
        ...

    def watch(self, pid: int, started: int) -> ProcessHandle | None:
        """Watch the process that began at ``started``; ``None``: it has exited. A zombie has exited too.

        Raises:
            Error: ``UNAVAILABLE`` no descriptor is free.
        """
        ...

    def namespaces(self) -> Set[int]:
        """Return the inode numbers of the network namespaces that processes are in, by their main threads.

        Raises:
            Error: ``UNAVAILABLE`` they cannot be read, for example because no descriptor is free.
        """
        ...

    def of_container(self, reference: str) -> int:
        """Return the first process of a container that another engine runs.

        Args:
            reference: the container's id, or 12 of its hex digits or more.

        Raises:
            Error: ``INVALID``, the reference is no id, or means several containers; ``NOT_FOUND``, none runs;
                ``UNAVAILABLE``, the processes cannot be read.
        """
        ...


class Watcher(Protocol):
    """Receives notifications of changes. Synchronous; called on worker threads, by one at a time."""

    def read(self) -> Changes:
        """Return the changes since the last call; the first call subscribes."""
        ...

    def links_into(self, namespace: int) -> Collection[str]:
        """Return the links of the host whose other end is in a namespace, as far as notifications reported it.

        Args:
            namespace: the host's number for it.
        """
        ...

    def name(self, index: int) -> str:
        """Return the name of the host's link with that index, as far as notifications reported it; empty: none."""
        ...


class StateReader(Protocol):
    """Reads many things at once. Synchronous; called on worker threads."""

    def host(self, only: str = "") -> NamespaceState:
        """Read the host's own namespace, or one link of it with its addresses and routes."""
        ...

    def uplinks(self) -> Collection[tuple[int, str]]:
        """Return the links of the host through which a half of all addresses or more is reached.

        A default route may have several next hops, no gateway, or a table of its own; VPN clients make it of two
        halves.

        Returns:
            The version of IP, and the name of the link.
        """
        ...

    def neighbour_overflows(self) -> Mapping[int, int]:
        """Return how often the kernel had no room for one more neighbour, by version of IP.

        All network namespaces share one table; only the first namespace can read this.
        """
        ...

    def inside(self, keys: Sequence[str], *, ipv6: bool = True) -> list[PinnedNamespace | None]:
        """Read the namespaces pinned at these keys, in order; ``None``: no namespace, or one that cannot be read.

        Args:
            keys: paths below the sandbox directory.
            ipv6: whether to read IPv6 routes.
        """
        ...

    def pinned(self) -> frozenset[str]:
        """Return the paths below the sandbox directory on which something is mounted."""
        ...

    def process_in(self, inode: int) -> int:
        """Return a process in the network namespace of that identity; 0: none."""
        ...

    def mount_path_of(self, inode: int) -> str:
        """Return a path at which the network namespace of that identity is mounted; empty: none."""
        ...
