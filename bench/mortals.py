"""Processes that are there to be killed: ``python -m bench.mortals NUMBER``.

Prints their ids, kills all of them when a line comes in, prints when it began, and ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def born() -> int:
    """Return a process that waits; its id."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    return pid


def main() -> None:
    """All of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process has to wait for them
    pids = [born() for _ in range(int(sys.argv[1]))]
    print(*pids, flush=True)
    sys.stdin.readline()
    print(time.perf_counter(), flush=True)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
