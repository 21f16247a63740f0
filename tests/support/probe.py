"""A sandbox beside a flooded one: ``python -m tests.support.probe PID SECONDS`` asks for ``web`` and prints each delay.

Each line has the seconds that process ``PID`` worked from a question to its answer, and the seconds that it took. It
runs before all other programs, so that it sees an answer when it comes. Where the machine is busy the resolver has to
wait for the processor, too: that is in the second number, not in the first.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress

PAUSE = 0.002
WEB = b"id\1\0\0\1\0\0\0\0\0\0\3web\0\0\1\0\1"


def main() -> None:
    """Ask until the time is over."""
    clock = ~int(sys.argv[1]) << 3 | 2  # the processor time of a process: clock_getcpuclockid(3)
    with suppress(OSError):  # not everywhere
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect(("127.0.0.11", 53))
    out.settimeout(10)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        worked, began = time.clock_gettime(clock), time.monotonic()
        out.send(WEB)
        answer = out.recv(512)
        print(time.clock_gettime(clock) - worked, time.monotonic() - began)
        if answer[6:8] != b"\0\1":
            raise SystemExit(f"not the answer: {answer!r}")
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
