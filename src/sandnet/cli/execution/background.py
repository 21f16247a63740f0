"""Background execution for ``run -d``: the starting process waits until its child is ready."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from sandnet.cli.lazy_group import Failure
from sandnet.errors import Error, Kind

Ready = Callable[[], None]


def detached(work: Callable[[Ready, int], int], log_file: str | None) -> int:
    """Run ``work`` in a child process with a session of its own.

    Until it is ready, it has the caller's stdout and stderr.

    Args:
        work: receives a function to call when it is ready, and a descriptor for the output of its own children; it
            returns its exit status.
        log_file: the file that this descriptor appends to, as does the child itself when it is ready; ``None``: the
            output is discarded.

    Returns:
        0 once the child is ready, else its exit status.

    Raises:
        Error: ``UNAVAILABLE``, the log file cannot be written.
    """
    log = _opened(log_file or os.devnull)
    reader, writer = os.pipe()  # both have the close-on-exec flag
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer, log)
    os.close(writer)
    os.close(log)
    try:
        if os.read(reader, 1):
            return 0
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _work(work: Callable[[Ready, int], int], writer: int, log: int) -> None:
    """Run the child process until it exits; this function does not return."""
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)

        def ready() -> None:
            os.dup2(log, 1)
            os.dup2(log, 2)
            with suppress(OSError):  # the starting process was killed
                os.write(writer, b"1")

        status = work(ready, log)
    except Error as error:
        Failure(error).show()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Error(Kind.UNAVAILABLE, f"cannot write {path}: {error.strerror}", code="log_file") from error
