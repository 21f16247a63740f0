"""A sandbox beside a flooded one: ``python -m tests.support.probe PID SECONDS`` asks for ``web`` and prints each delay.

Each line has the seconds that process ``PID`` worked from a question until its answer was read, the seconds that this
took, and those from the answer's arrival until it was read, by the kernel's time stamp. As root it runs before all
other programs, so that it reads an answer when it comes; as a user it may wait for a processor, while the resolver goes
on with other work. Where the machine is busy the resolver has to wait for a processor, too: that is in the second
number, not in the first.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from contextlib import suppress

PAUSE = 0.002
SO_TIMESTAMPNS = 35
"""``asm-generic/socket.h``; also the type of the control message, a ``struct timespec``."""
WEB = b"id\1\0\0\1\0\0\0\0\0\0\3web\0\0\1\0\1"


def main() -> None:
    """Ask until the time is over."""
    clock = ~int(sys.argv[1]) << 3 | 2  # the processor time of a process: clock_getcpuclockid(3)
    with suppress(OSError):  # not everywhere
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect(("127.0.0.11", 53))
    out.settimeout(10)
    out.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        worked, began = time.clock_gettime(clock), time.monotonic()
        out.send(WEB)
        answer, ancillary, _, _ = out.recvmsg(512, socket.CMSG_SPACE(16))
        read = time.time()
        cost, wait = time.clock_gettime(clock) - worked, time.monotonic() - began
        (arrived,) = (seconds + ns / 1e9 for seconds, ns in (struct.unpack("@ll", data) for _, _, data in ancillary))
        print(cost, wait, read - arrived)
        if answer[6:8] != b"\0\1":
            raise SystemExit(f"not the answer: {answer!r}")
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
