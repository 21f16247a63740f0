"""Starts programs that outlive their parent process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.logs import LOG_LIMIT

_START_DEADLINE: Final = 10.0


def start_detached(command: Sequence[str], log: str, descriptors: Sequence[int] = ()) -> None:
    """Run a program that daemonizes itself (daemon(7)) and return once it serves.

    It gets a session of its own, nothing on stdin, ``log`` (0600, appended to) for stdout and stderr, and these
    descriptors of ours.

    Raises:
        Error: ``UNAVAILABLE`` it cannot be started, fails, or takes longer than ten seconds.
    """
    try:
        out = _open_log(log)
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                timeout=_START_DEADLINE,
                check=False,
                pass_fds=descriptors,
            )
        finally:
            os.close(out)
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise Error(Kind.UNAVAILABLE, f"cannot start {command[0]}: {failure}", f"see {log}") from failure
    if ended.returncode != 0:
        raise Error(Kind.UNAVAILABLE, f"{' '.join(command[:3])} ended with {ended.returncode}", f"see {log}")


def _open_log(path: str) -> int:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > LOG_LIMIT:
        os.ftruncate(log, 0)
    return log
