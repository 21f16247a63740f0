"""A child process in a sandbox: started, handed its signals, waited for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from sandnet.cli import output
from sandnet.cli.enter import Place, die_with, enter, execute
from sandnet.errors import Error

FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def hold_signals() -> set[signal.Signals | int]:
    """From now on the signals that end a program wait for :func:`supervise`, so that cleaning up always happens.

    Returns:
        The mask as it was, for the child.
    """
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD}))


def supervise(place: Place, command: tuple[str, ...], mask: Iterable[signal.Signals | int]) -> int:
    """Run the command in the sandbox until it ends. Signals must be held.

    Returns:
        Its exit status, or 128 and the signal's number when a signal ended it.
    """
    came_early: set[int] = set(signal.sigpending()) & FORWARDED
    if came_early:
        return 128 + min(came_early)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(place, command, mask, parent)
    return _wait(child)


def _wait(child: int) -> int:
    while True:
        told = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if told.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif told.si_code <= 0:  # sent by a process; the terminal's (SI_KERNEL) go to the child too
            os.kill(child, told.si_signo)


def _become(place: Place, command: tuple[str, ...], mask: Iterable[signal.Signals | int], parent: int) -> NoReturn:
    try:
        die_with(parent)  # killed, we could not stop it, and its network is gone then
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        enter(place)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        execute(command)
    except Error as error:
        output.failure(error.message, error.hint)
    finally:
        os._exit(1)  # whatever went wrong, a forked copy of the command line must not go on
