"""Requests of commands and tests to the supervisor of a running lab, and the removal of a lab."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sandnet.errors import Error, Kind
from sandnet.lab.entry import KINDS, close_all
from sandnet.lab.lab_directory import CONTROL, LabDirectory
from sandnet.lab.lab_messages import MESSAGE_LIMIT, EnterHost, GetStatus, LabAnswer, LabStatus, Request, StartHost
from sandnet.passed_descriptors import receive

ANSWER_TIMEOUT: Final = 30.0
START_DEADLINE: Final = 40.0
KILL_DEADLINE: Final = 20.0
"""Seconds in which the kernel ends all processes of a lab."""


class HostNamespaces(NamedTuple):
    """Descriptors that lead into a host."""

    namespaces: tuple[int, ...]
    """In the order of :data:`sandnet.lab.entry.KINDS`."""
    run: int
    """The host's ``/run``."""


class LabClient:
    """A running lab."""

    def __init__(self, name: str) -> None:
        self.directory = LabDirectory(name)

    def status(self) -> LabStatus:
        """Return how everything is."""
        status = self.request(GetStatus()).status
        if status is None:
            raise Error(Kind.INTERNAL, "the supervisor's answer has no status", code="bad_answer")
        return status

    def request(self, request: Request) -> LabAnswer:
        """Send a request and return its answer.

        Raises:
            Error: that of the answer; ``NOT_FOUND``, there is no such lab.
        """
        answer, descriptors = self._exchange(request)
        close_all(descriptors)
        return answer

    def start_host(self, number: int) -> None:
        """Start what does not run on a host, and wait until its daemon serves.

        Raises:
            Error: ``UNAVAILABLE``, the daemon does not.
        """
        self.request(StartHost(number))
        deadline = time.monotonic() + START_DEADLINE
        while (host := self.status().hosts[number - 1]).daemon != "ready":
            if host.daemon != "starting" or time.monotonic() > deadline:
                message = f"the daemon of host {number} does not serve: {host.daemon}"
                raise Error(Kind.UNAVAILABLE, message, f"its log: {host.daemon_log}", "daemon_not_started")
            time.sleep(0.02)

    @contextmanager
    def entry(self, number: int) -> Iterator[HostNamespaces]:
        """Yield the way into a host, which ends with the block.

        Raises:
            Error: ``INVALID``, there is no such host; ``UNAVAILABLE``, it has no power.
        """
        _, descriptors = self._exchange(EnterHost(number))
        try:
            yield HostNamespaces(tuple(descriptors[:-1]), descriptors[-1])
        finally:
            close_all(descriptors)

    def _exchange(self, request: Request) -> tuple[LabAnswer, list[int]]:
        with self._connection() as connection:
            connection.sendall(msgspec.json.encode(request))
            received = receive(connection, MESSAGE_LIMIT, len(KINDS) + 1)
        try:
            answer = msgspec.json.decode(received.data, type=LabAnswer)
        except msgspec.DecodeError as failure:
            close_all(received.descriptors)
            message = f"the supervisor of the lab {self.directory.name} gave no answer: {failure}"
            raise Error(Kind.UNAVAILABLE, message, f"its log: {self.directory.log}") from failure
        if answer.kind:
            close_all(received.descriptors)
            raise error_of(answer)
        return answer, received.descriptors

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            try:
                _connect(connection, self.directory.path)
                yield connection
            except OSError as failure:
                raise self._absent(failure) from failure

    def _absent(self, failure: OSError) -> Error:
        name = self.directory.name
        if self.directory.is_held():
            return Error(Kind.UNAVAILABLE, f"the lab {name} does not answer: {failure}", "it may still be starting")
        if self.directory.exists():
            hint = "remove what it has left: sandnet lab down, or begin again: sandnet lab up"
            return Error(Kind.NOT_FOUND, f"the lab {name} was killed", hint, "lab_killed")
        return Error(Kind.NOT_FOUND, f"there is no lab {name}", "make one: sandnet lab up", "lab_not_found")

    def remove(self) -> None:
        """Kill the lab and remove its files; what a killed lab has left is removed too.

        Raises:
            Error: ``NOT_FOUND``, there is neither.
        """
        if not self.directory.exists():
            raise self._absent(FileNotFoundError())
        supervisor = self._open_supervisor()
        if supervisor is not None:
            kill_and_wait(supervisor)
        elif self.directory.is_held():
            message = f"the lab {self.directory.name} is starting or ending"
            raise Error(Kind.CONFLICT, message, "try again in a moment", "lab_busy")
        self.directory.remove()

    def _open_supervisor(self) -> int | None:
        """Return a descriptor of the process that listens; ``None``: none does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            try:
                _connect(connection, self.directory.path)
                pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                supervisor = os.pidfd_open(pid)
            except OSError:
                return None
            if self.directory.is_held():  # still: so the number was not another process's by then
                return supervisor
        os.close(supervisor)
        return None


def _connect(connection: socket.socket, folder: Path) -> None:
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{opened}/{CONTROL}")
    finally:
        os.close(opened)


def error_of(answer: LabAnswer) -> Error:
    """Return the error that an answer has."""
    return Error(Kind(answer.kind), answer.message, answer.hint, answer.code)


def kill_and_wait(supervisor: int) -> None:
    """Kill a supervisor by its descriptor, which is closed, and wait until all processes of the lab have ended.

    The first process of a PID namespace ends after all others.

    Raises:
        Error: ``UNAVAILABLE``, it has not ended in time.
    """
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(supervisor, signal.SIGKILL)
        if not select.select((supervisor,), (), (), KILL_DEADLINE)[0]:
            raise Error(Kind.UNAVAILABLE, f"the lab has not ended in {KILL_DEADLINE:.0f} s", code="lab_busy")
    finally:
        os.close(supervisor)
