"""Processes, held by descriptors that cannot mean another process when their number is reused (pidfd_open(2))."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import Final

from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.linux.cgroups.container_processes import ENDED, find_container_process, start_time
from sandnet.kernel.netlink.socket import map_errors

_MAX_STAT: Final = 4096
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)


class PidFd:
    """See :class:`sandnet.kernel.observation.ProcessHandle`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        return self._descriptor

    def end(self, *, force: bool = False) -> None:
        """See :meth:`sandnet.kernel.observation.ProcessHandle.end`."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL if force else signal.SIGTERM)

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class LinuxProcesses:
    """The Linux implementation of :class:`sandnet.kernel.observation.Processes`, for the daemon's own PID namespace.

    Args:
        own: returns the numbers of the daemon's own processes in sandboxes, which do not count as ones of containers.
    """

    def __init__(self, own: Callable[[], Collection[int]] = frozenset) -> None:
        self._own = own

    def started(self, pid: int) -> int | None:
        """See :meth:`sandnet.kernel.observation.Processes.started`.

        Raises:
            Error: as described there; ``UNAVAILABLE`` no descriptor is free.
        """
        process = _open(pid)
        if process is None:
            return None
        try:
            return None if _has_ended(process) else _start_time(pid)
        finally:
            process.close()

    def watch(self, pid: int, started: int) -> PidFd | None:
        """See :meth:`sandnet.kernel.observation.Processes.watch`.

        Raises:
            Error: as described there.
        """
        process = _open(pid)
        if process is None:
            return None
        with ExitStack() as unless_watched:
            unless_watched.callback(process.close)
            # The descriptor is open while the start time is read: if the time matches, it is that process's.
            if _start_time(pid) != started or _has_ended(process):
                return None
            unless_watched.pop_all()
        return process

    def namespaces(self) -> frozenset[int]:
        """See :meth:`sandnet.kernel.observation.Processes.namespaces`.

        Raises:
            Error: as described there.
        """
        found = set()
        own = {str(pid) for pid in self._own()}
        with map_errors("look which namespaces processes are in"):
            for name in filter(str.isdecimal, os.listdir("/proc")):
                if name in own:
                    continue
                with suppress(*ENDED, PermissionError):
                    found.add(os.stat(f"/proc/{name}/ns/net").st_ino)
        return frozenset(found)

    def of_container(self, reference: str) -> int:
        """See :meth:`sandnet.kernel.observation.Processes.of_container`.

        Raises:
            Error: as described there.
        """
        return find_container_process(reference)


def _open(pid: int) -> PidFd | None:
    try:
        return PidFd(os.pidfd_open(pid))
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            raise invalid(f"{pid} is no process but a thread of one", "name its process", "not_a_process") from error
        raise _unknown(pid, error) from error


def _unknown(pid: int, error: OSError) -> Error:
    hint = "raise the daemon's limit of open files" if error.errno in _NO_DESCRIPTOR else ""
    return Error(Kind.UNAVAILABLE, f"cannot watch process {pid}: {error.strerror}", hint)


def _has_ended(process: PidFd) -> bool:
    waiting = select.poll()  # not select.select, which takes no descriptor above 1,023
    waiting.register(process.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _start_time(pid: int) -> int | None:
    """Return the start time in clock ticks since boot; ``None``: there is no such process.

    Raises:
        Error: ``UNAVAILABLE`` it cannot be read. That does not mean that the process has exited: a caller that took it
            so would remove the sandbox of a running process.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.read(descriptor, _MAX_STAT)
        finally:
            os.close(descriptor)
    except ENDED:  # it has exited, perhaps between open and read
        return None
    except OSError as error:
        raise _unknown(pid, error) from error
    return start_time(stat.decode(errors="surrogateescape"))
