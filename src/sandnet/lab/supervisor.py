"""The first process of a lab: it starts everything, and answers requests until it is killed."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from sandnet.errors import Error, invalid
from sandnet.kernel.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount
from sandnet.lab.child_processes import ProcessTable
from sandnet.lab.entry import close_all
from sandnet.lab.lab import Lab
from sandnet.lab.lab_directory import CONTROL, LabDirectory
from sandnet.lab.lab_messages import (
    MESSAGE_LIMIT,
    ChangeMember,
    CutNetwork,
    EnterHost,
    GetStatus,
    HealNetwork,
    ImpairHost,
    KillHost,
    LabAnswer,
    Progress,
    Request,
    StartHost,
)
from sandnet.lab.lab_spec import LabSpec

READ_TIMEOUT: Final = 2.0
"""Seconds in which a client sends its request."""


def supervise(spec: LabSpec, directory: LabDirectory, progress: int) -> NoReturn:
    """Start the lab, report it, and answer requests. The process is the first of its PID namespace.

    Args:
        spec: what the lab has.
        directory: claimed for it.
        progress: descriptor for :class:`~sandnet.lab.lab_messages.Progress`, one JSON document a line; the process
            ends when the reader has ended before the lab was ready.
    """

    def send(message: Progress) -> None:
        os.write(progress, msgspec.json.encode(message) + b"\n")

    faulthandler.register(signal.SIGUSR1)  # its log then has the place where it is
    processes = ProcessTable()
    wakeup = _wake_up_at_ends_of_children()
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    lab = Lab(spec, directory.path, processes)
    try:
        lab.start(lambda line: send(Progress(line=line)))
        listener = _listen(directory)
    except Error as failure:
        send(Progress(error=_answer_of(failure)))
        raise
    send(Progress(ready=True))
    os.close(progress)
    _serve(lab, listener, wakeup, processes)


def _wake_up_at_ends_of_children() -> socket.socket:
    """Return a socket that becomes readable when a child ends."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    return reader


def _listen(directory: LabDirectory) -> socket.socket:
    """Return the control socket. Its path may be longer than that of a socket can be (108 bytes, unix(7))."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(directory.path, os.O_PATH | os.O_DIRECTORY)
    listener.bind(f"/proc/self/fd/{folder}/{CONTROL}")
    os.close(folder)
    listener.listen(64)
    return listener


def _serve(lab: Lab, listener: socket.socket, wakeup: socket.socket, processes: ProcessTable) -> NoReturn:
    while True:
        readable = select.select((listener, wakeup), (), ())[0]
        if wakeup in readable:
            with suppress(BlockingIOError):
                wakeup.recv(4096)
            processes.reap()
        if listener in readable:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the client has ended
                connection.settimeout(READ_TIMEOUT)
                _handle(lab, connection)


def _handle(lab: Lab, connection: socket.socket) -> None:
    data = connection.recv(MESSAGE_LIMIT)
    if not data:
        return
    descriptors: list[int] = []
    try:
        request: Request = msgspec.json.decode(data, type=Request)
        answer = _perform(lab, request, descriptors)
    except msgspec.DecodeError as failure:
        answer = _answer_of(invalid(f"the request cannot be read: {failure}", "is it another release's?"))
    except Error as failure:
        answer = _answer_of(failure)
    try:
        socket.send_fds(connection, [msgspec.json.encode(answer)], descriptors)
    finally:
        close_all(descriptors)


def _perform(lab: Lab, request: Request, descriptors: list[int]) -> LabAnswer:
    match request:
        case GetStatus():
            return LabAnswer(status=lab.status())
        case EnterHost():
            descriptors += lab.host(request.number).open_entry()
        case CutNetwork():
            lab.cut(request.pairs, store_only=request.store_only)
        case HealNetwork():
            lab.heal()
        case ImpairHost():
            lab.impair(request.number, request.delay, request.loss)
        case KillHost():
            lab.kill(request.number, power=request.power, lose_state=request.lose_state)
        case StartHost():
            lab.start_host(request.number)
        case ChangeMember():
            lab.change_member(request.number, request.action)
    return LabAnswer()


def _answer_of(failure: Error) -> LabAnswer:
    return LabAnswer(kind=failure.kind, message=failure.message, hint=failure.hint, code=failure.code)
