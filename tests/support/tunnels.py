"""The processes of WireGuard links, as tests look for them."""

from __future__ import annotations

import os
import signal

PROGRAM = b"wireguard-go"


def processes_here() -> list[int]:
    """The numbers of the processes wireguard-go in the network namespace of the calling thread."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    return [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _is_one(pid, here)]


def kill_all() -> None:
    """Kill them."""
    for pid in processes_here():
        os.kill(pid, signal.SIGKILL)


def _is_one(pid: str, namespace: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().startswith(PROGRAM) and os.stat(f"/proc/{pid}/ns/net").st_ino == namespace
    except OSError:
        return False
