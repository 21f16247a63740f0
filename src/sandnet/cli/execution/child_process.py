"""A child process in a sandbox: its start, the forwarding of signals, and the wait for its exit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, NoReturn

from sandnet.cli import output
from sandnet.cli.execution.nsenter import SandboxPaths, die_with, enter, execute
from sandnet.errors import Error
from sandnet.library.port_arguments import protocol

FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
TIMEOUT = 10.0
"""Seconds until a program in the background must listen on its ports."""
STEP = 0.02
"""Seconds between two checks of the ports."""
TABLES = {6: (("tcp", "tcp6"), "0A"), 17: (("udp", "udp6"), "07")}
"""By protocol: files of /proc/PID/net, and the state of a socket that receives (proc_net_tcp.rst)."""


class Program(NamedTuple):
    """A program to run in a sandbox."""

    command: tuple[str, ...]
    ports: Sequence[tuple[int, int]] = ()
    """Protocol and port of each socket on which it is expected to listen."""
    ready: Callable[[], None] | None = None
    """Function that is called once the program runs and listens."""
    output: int | None = None
    """A descriptor for its stdout and stderr; ``None``: those of this process."""


def block_signals() -> set[signal.Signals | int]:
    """Block the signals that end a program until :func:`supervise` handles them, so that the cleanup always happens.

    Returns:
        The mask as it was, for the child.
    """
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD}))


def supervise(place: SandboxPaths, program: Program, mask: Iterable[signal.Signals | int]) -> int:
    """Run the program in the sandbox until it ends. The signals must be blocked.

    Returns:
        Its exit status, or 128 and the signal's number when a signal ended it.
    """
    pending: set[int] = set(signal.sigpending()) & FORWARDED
    if pending:
        return 128 + min(pending)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reader, writer = os.pipe()  # executing the program closes the child's end
    child = os.fork()
    if child == 0:
        _exec_in_sandbox(place, program, mask, parent, writer)
    os.close(writer)
    runs = os.read(reader, 1) == b""
    os.close(reader)
    if runs and program.ready:
        status = _await_ports(child, program.ports)
        if status is not None:
            return status
        program.ready()
    return wait_for(child)


def _await_ports(child: int, ports: Sequence[tuple[int, int]]) -> int | None:
    """Wait until all ports have listeners; return the program's exit status when it ends before that."""
    deadline = time.monotonic() + TIMEOUT
    while missing := [port for port in ports if not _listens(child, *port)]:
        if time.monotonic() > deadline:
            names = ", ".join(f"{port}/{protocol(proto)}" for proto, port in missing)
            output.failure(f"nothing listens on {names} after {TIMEOUT:g} s", "the command goes on")
            return None
        status = _handle(child, signal.sigtimedwait({*FORWARDED, signal.SIGCHLD}, STEP))
        if status is not None:
            output.failure(f"the command ended with status {status} before it listened")
            return status
    return None


def _listens(child: int, proto: int, port: int) -> bool:
    """Return whether a socket in the child's network namespace receives on the port."""
    names, state = TABLES.get(proto, ((), ""))
    end = f":{port:04X}"
    for name in names:
        try:
            with open(f"/proc/{child}/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:  # the child has ended, or there is no IPv6
            continue
        if any(row[1].endswith(end) and row[3] == state for row in rows):
            return True
    return not names  # other protocols have no such table


def wait_for(child: int) -> int:
    """Wait until a child ends, and forward the signals that were sent to this process alone; they must be blocked.

    Returns:
        Its exit status, or 128 and the signal's number when a signal ended it.
    """
    while True:
        status = _handle(child, signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD}))
        if status is not None:
            return status


def _handle(child: int, received: signal.struct_siginfo | None) -> int | None:
    """Forward a signal that was for the child; return the child's exit status when it has ended."""
    if received is None:
        return None
    if received.si_signo == signal.SIGCHLD:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
    elif received.si_code <= 0:  # sent by a process; those of the terminal (SI_KERNEL) go to the child too
        os.kill(child, received.si_signo)
    return None


def _exec_in_sandbox(
    place: SandboxPaths, program: Program, mask: Iterable[signal.Signals | int], parent: int, failed: int
) -> NoReturn:
    try:
        die_with(parent)  # a killed parent cannot stop its child, and the daemon removes the network
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        enter(place)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        execute(program.command, program.output, failed)
    except Error as error:
        os.write(failed, b"1")
        output.failure(error.message, error.hint)
    finally:
        os._exit(1)  # after any failure: a forked copy of the command line must not continue
