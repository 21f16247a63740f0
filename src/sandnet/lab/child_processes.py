"""Processes that the supervisor forks: on the switch, as the first of a host, and on a host."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from sandnet.errors import Error, Kind
from sandnet.lab.entry import close_all, enter_namespaces, open_namespaces

END_DEADLINE: Final = 10.0
"""Seconds in which a process ends, or the kernel ends all of a host."""
_STEP: Final = 0.002


class ProcessTable:
    """The ends of all children of the supervisor, by pid."""

    def __init__(self) -> None:
        self._statuses: dict[int, int | None] = {}

    def add(self, pid: int) -> None:
        """Follow a process."""
        self._statuses[pid] = None

    def reap(self) -> None:
        """Take note of all processes that have ended."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._statuses[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def is_running(self, pid: int) -> bool:
        """Return whether a followed process runs."""
        self.reap()
        return pid in self._statuses and self._statuses[pid] is None

    def status(self, pid: int) -> int | None:
        """Return the exit status, or the signal's negative number; ``None`` while the process runs."""
        self.reap()
        return self._statuses.get(pid)

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, if the process runs: its number cannot be another's before it was reaped."""
        if self.is_running(pid):
            os.kill(pid, number)

    def kill_and_wait(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends a process, and wait until it has ended.

        The first process of a host ends after all others there, once their parents have waited for them: this process
        is the parent of some (zap_pid_ns_processes of the kernel). So it waits for all of its children.

        Raises:
            Error: ``UNAVAILABLE``, it has not ended in time.
        """
        self.kill(pid, number)
        deadline = time.monotonic() + END_DEADLINE
        while self.is_running(pid):
            if time.monotonic() > deadline:
                hint = "a command of lab exec there may be stopped"
                raise Error(Kind.UNAVAILABLE, f"a process has not ended in {END_DEADLINE:g} s", hint, "lab_busy")
            time.sleep(_STEP)


def fork(work: Callable[[], object], keep: Collection[int] = ()) -> int:
    """Run ``work`` in a child process with the default actions of signals; return its pid.

    Args:
        work: what the child does; it ends afterwards.
        keep: descriptors that it keeps besides the standard ones.
    """
    child = os.fork()
    if child == 0:
        _run(work, keep)
    return child


def _run(work: Callable[[], object], keep: Collection[int]) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in keep:
                with suppress(OSError):
                    os.close(int(name))
        work()
        status = 0
    except BaseException as failure:
        os.write(2, f"sandnet: {type(failure).__name__}: {failure}\n".encode())
    finally:
        os._exit(status)  # a forked copy of the supervisor must not continue


class HostProgram(NamedTuple):
    """A program to start on a host."""

    command: list[str]
    log: str
    """Path of the file that its output is appended to, as the supervisor sees it."""


def start_on_host(init: int, program: HostProgram) -> int:
    """Start a program in the namespaces of a host and return its pid; the supervisor is its parent.

    A process enters a PID namespace only by its birth. So a child enters, forks once more, and ends: the kernel gives
    its orphan to the first process of the namespace that the child itself is in (pid_namespaces(7)).

    Args:
        init: pid of the host's first process.
        program: what to start. That it cannot be found is an end with status 1, with the reason in its log.

    Raises:
        OSError: the host has no power.
    """
    log = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    namespaces = open_namespaces(init)
    reader, writer = os.pipe()
    try:

        def enter_and_fork() -> None:
            os.dup2(log, 1)
            os.dup2(log, 2)
            enter_namespaces(namespaces)
            os.chdir("/")
            pid = os.fork()
            if pid:
                os.write(writer, str(pid).encode())
                return
            os.setsid()
            os.execvp(program.command[0], program.command)  # noqa: S606 (no shell is the point)

        child = fork(enter_and_fork, {log, writer, *namespaces})
    finally:
        close_all([log, writer, *namespaces])
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    if not found:
        raise OSError(f"cannot start {program.command[0]} on the host: see {program.log}")
    return int(found)
