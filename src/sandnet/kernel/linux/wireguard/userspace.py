"""WireGuard by the program wireguard-go, for kernels without it.

It serves a tun link that we make, and that outlives it: with its process a link would be gone, and with it its routes.
Without a process nothing passes the link, and packets for it are dropped. It serves its configuration at a socket named
after the link, ends when that is removed, and goes on when the daemon ends.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from sandnet.kernel.linux.taps.device import make_tun
from sandnet.kernel.spawn import start_detached

PROGRAM: Final = "wireguard-go"
_SOCKETS: Final = "/var/run/wireguard"
_OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"
_CONNECT: Final = 1.0
"""Seconds: a socket of a process that hangs still takes connections, until its queue is full."""


_END: Final = 2.0
"""Seconds that a killed process may take to end."""


def make_link(name: str) -> None:
    """Make the tun link, down and without a process, if it is absent.

    Raises:
        OSError: ``EBUSY``: a process serves it; ``EINVAL``: a link of another kind has the name.
        Error: ``UNAVAILABLE``.
    """
    make_tun(name)


def is_served(name: str) -> bool:
    """Return whether a process serves the link."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT)
        try:
            client.connect(f"{_SOCKETS}/{name}.sock")
        except OSError:
            return False
        return True


def serve(name: str, log: str) -> None:
    """Start the process of a link that is there; it returns once it can be configured.

    Raises:
        Error: ``UNAVAILABLE``.
    """
    start_detached([PROGRAM, name], log)


def kill(name: str) -> None:
    """Kill the processes that serve the link of this network namespace, and wait for their end; also if they hang."""
    with suppress(OSError):
        os.unlink(f"{_SOCKETS}/{name}.sock")
    for descriptor in _processes(name):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], _END)  # until then the link is busy
        os.close(descriptor)


def _processes(name: str) -> Iterator[int]:
    """Yield a descriptor of each process that serves the link; the caller closes it."""
    here = os.stat(_OWN_NAMESPACE).st_ino
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            descriptor = os.pidfd_open(int(pid))
        except OSError:
            continue
        if _serves(pid, name, here):
            yield descriptor
        else:
            os.close(descriptor)


def _serves(pid: str, name: str, namespace: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")
        return words[:2] == [PROGRAM.encode(), name.encode()] and os.stat(f"/proc/{pid}/ns/net").st_ino == namespace
    except OSError:
        return False
