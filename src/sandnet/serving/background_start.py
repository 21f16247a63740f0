"""Start of the daemon in the background, with a wait until it serves."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandnet.config import Config
from sandnet.errors import Error, Kind
from sandnet.serving.unix_socket import check_private

LOG = "daemon.log"
"""File in the run directory; it is emptied when it grows beyond :data:`sandnet.logs.LOG_LIMIT`."""
DEADLINE = 60.0
"""Seconds that a start may take before the caller gets an error."""
TAIL = 4096
"""Bytes at the end of the log that are searched for the reason of a failure."""


def start(config: Config, serve: Callable[[], int]) -> str:
    """Serve in a child process, with a session of its own and nothing on stdin.

    Args:
        config: the daemon's configuration.
        serve: function that the child calls.

    Returns:
        The path of the log, once the child serves.

    Raises:
        Error: ``UNAVAILABLE``, it did not start; the message has the reason and the hint the path of its log.
    """
    log = os.path.join(config.run_dir, LOG)
    with _opened(log, config.run_dir) as out, _ready_socket(config.run_dir) as ready:
        began = os.fstat(out).st_size
        child = os.fork()
        if child == 0:
            _serve(serve, out, ready)
        if _wait(ready, child):
            return log
        os.lseek(out, max(began, os.fstat(out).st_size - TAIL), os.SEEK_SET)
        reason = _reason(os.read(out, TAIL).decode(errors="replace"))
    raise Error(Kind.UNAVAILABLE, f"the daemon did not start: {reason}", f"its log: {log}", "daemon_not_started")


def _serve(serve: Callable[[], int], out: int, ready: socket.socket) -> None:
    """Run the child process until it exits; this function does not return."""
    status = 1
    try:
        os.setsid()
        os.environ["NOTIFY_SOCKET"] = ready.getsockname()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        ready.close()
        status = serve()
    except Error as error:
        sys.stderr.write(f"sandnet: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _wait(ready: socket.socket, child: int) -> bool:
    """Return whether the child serves; false when it has ended.

    Raises:
        Error: ``UNAVAILABLE``, it does neither within the deadline; the child continues.
    """
    ended = os.pidfd_open(child)
    try:
        deadline = time.monotonic() + DEADLINE
        while (left := deadline - time.monotonic()) > 0:
            found, _, _ = select.select([ready.fileno(), ended], [], [], left)
            if ready.fileno() in found and b"READY=1" in ready.recv(TAIL).splitlines():
                return True
            if ended in found:
                os.waitpid(child, 0)
                return False
    finally:
        os.close(ended)
    message = f"the daemon (process {child}) is not ready after {DEADLINE:g} s"
    raise Error(Kind.UNAVAILABLE, message, "it goes on starting; see its log, and: sandnet status", "daemon_slow")


@contextmanager
def _opened(log: str, folder: str) -> Iterator[int]:
    try:
        Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        check_private(folder)
        out = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        hint = "run it as root, or name another directory (--run-dir)"
        raise Error(
            Kind.UNAVAILABLE, f"cannot write {log}: {failure.strerror}", hint, "directory_unusable"
        ) from failure
    try:
        yield out
    finally:
        os.close(out)


@contextmanager
def _ready_socket(folder: str) -> Iterator[socket.socket]:
    """Open a socket to which the child reports that it serves (sd_notify(3))."""
    path = os.path.join(folder, f"ready.{os.getpid()}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        Path(path).unlink(missing_ok=True)
        ready.bind(path)
        try:
            yield ready
        finally:
            Path(path).unlink(missing_ok=True)


def _reason(text: str) -> str:
    """Return the last message of the child in one line; a hint is on a line of its own, indented."""
    lines = [line for line in text.splitlines() if line.strip()] or ["it printed no reason"]
    hint = f"; {lines.pop().strip()}" if len(lines) > 1 and lines[-1].startswith("  ") else ""
    return lines[-1].removeprefix("sandnet: ") + hint
