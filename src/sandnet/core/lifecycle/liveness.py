"""Whether a container is running: by the process that its join named, and by its network namespace.

A container has exited when that process has ended, or when its namespace no longer exists: it is not pinned at the
sandbox key any more, and no process is inside. A container of unknown state counts as running.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property

from sandnet.errors import Error, not_found
from sandnet.kernel.base import Kernel
from sandnet.kernel.workers import Workers
from sandnet.model import Process, Sandbox


async def identify(kernel: Kernel, workers: Workers, pid: int) -> Process | None:
    """Return the process with that number and its start time; ``None`` for 0.

    Raises:
        Error: ``NOT_FOUND`` with code ``process_not_found``; ``INVALID`` it is a thread's number.
    """
    if not pid:
        return None
    started = await workers.run(kernel.processes.started, pid)
    if started is None:
        raise not_found("process", str(pid), "it has ended, or is in a PID namespace that the daemon does not see")
    return Process(pid, started)


async def exited(kernel: Kernel, workers: Workers, sandboxes: Iterable[Sandbox]) -> Set[str]:
    """Return the ids of those containers that have exited."""
    return await workers.run(_exited, kernel, list(sandboxes))


def has_ended(kernel: Kernel, process: Process) -> bool:
    """Return whether a process has ended; a job for a worker thread."""
    try:
        watched = kernel.processes.watch(process.pid, process.started)
    except Error:
        return False
    if watched:
        watched.close()
    return watched is None


class _ProcessSnapshot:
    """One snapshot of the kernel's processes; the list of processes is read only if it is needed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def _occupied(self) -> Set[int]:
        return self._kernel.processes.namespaces()

    def has_exited(self, sandbox: Sandbox) -> bool:
        if sandbox.process and has_ended(self._kernel, sandbox.process):
            return True
        if sandbox.is_outside:
            return (
                False  # its container engine knows, and removes it; a guest without a process is there until it leaves
            )
        try:
            pinned = self._kernel.namespaces.find(sandbox.key)
            is_pinned = pinned is not None and pinned.inode == sandbox.inode
            return not is_pinned and sandbox.inode not in self._occupied
        except Error:
            return False


def _exited(kernel: Kernel, sandboxes: Iterable[Sandbox]) -> Set[str]:
    snapshot = _ProcessSnapshot(kernel)
    return {sandbox.container_id for sandbox in sandboxes if snapshot.has_exited(sandbox)}


def namespaces_in_use(kernel: Kernel, sandboxes: Iterable[Sandbox]) -> Set[int]:
    """Return the inode numbers of the namespaces that something uses; a job for a worker thread.

    A process uses the namespace that it is in. A sandbox's watched path uses the namespace that it leads to: a
    container runtime keeps one there before the first process starts in it, and after the last one has ended.

    Raises:
        Error: ``UNAVAILABLE`` the kernel does not return it.
    """
    occupied = kernel.processes.namespaces()
    watched = (each for each in sandboxes if each.watched_path and each.inode not in occupied)
    return occupied | {each.inode for each in watched if _leads_to(kernel, each)}


def _leads_to(kernel: Kernel, sandbox: Sandbox) -> bool:
    """Return whether the watched path leads to the sandbox's namespace; a path that cannot be read counts as such."""
    try:
        return kernel.namespaces.leads_to(sandbox.watched_path, sandbox.inode)
    except Error:
        return True


class NamespaceUse:
    """Answers whether network namespaces are in use, from the kernel."""

    def __init__(self, kernel: Kernel, workers: Workers) -> None:
        self._kernel = kernel
        self._workers = workers

    async def is_in_use(self, sandbox: Sandbox) -> bool:
        """Return whether something uses the sandbox's namespace; see :func:`namespaces_in_use`."""
        return sandbox.inode in await self._workers.run(namespaces_in_use, self._kernel, [sandbox])

    async def is_at_another(self, path: str, sandbox: Sandbox) -> bool:
        """Return whether ``path`` leads to a network namespace, and not to the sandbox's."""
        try:
            found = await self._workers.run(self._kernel.namespaces.identify, path=path)
        except Error:
            return False
        return found.inode != sandbox.inode
