"""Host namespaces to put daemons into, and what can be seen of processes from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import AnyStr

from sandnet.kernel.syscalls import OWN_NAMESPACE, in_namespace, restoring_namespace, unshare_network

STOP_DEADLINE = 30.0
"""Seconds a process may take to end."""
_FAULT_FIELDS = (8, 10)
"""Of ``/proc/PID/stat`` after the name: page faults of children that were waited for (proc(5))."""


class Namespace:
    """A network namespace with loopback up, there as long as this object is open."""

    def __init__(self) -> None:
        with restoring_namespace():
            unshare_network()
            self._fd = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def start(
        self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in it; its output goes to ``log``."""
        with in_namespace(self._fd), log.open("ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment)

    def run(self, command: Sequence[str], given: str = "", environment: dict[str, str] | None = None) -> str:
        """Run a process in it; return what it printed.

        Raises:
            RuntimeError: it failed; with its output.
        """
        with in_namespace(self._fd):
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def close(self) -> None:
        """Release it; the kernel deletes it once no other process is in it."""
        os.close(self._fd)


def host_links(pid: int) -> set[str]:
    """Return the names of the links in the network namespace of a process."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def wait_until(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.002) -> float:
    """Poll until the condition holds; the seconds that took.

    Raises:
        RuntimeError: it does not hold in time.
    """
    begun = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun > seconds:
            raise RuntimeError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
    return time.perf_counter() - begun


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are there, zombies included."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for file in lists for child in file.read_text().split())


def ended_children_faults(pid: int) -> int:
    """Page faults of all children that ended: 0 as long as there were none, for a process cannot run without."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[field]) for field in _FAULT_FIELDS)


def resident(pid: int) -> float:
    """MiB of memory that a process and its children have in use, shared pages counted in each."""
    text = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))
    return kib / 1024 + sum(resident(child) for child in children(pid))


def stop(process: subprocess.Popen[AnyStr], number: signal.Signals = signal.SIGTERM) -> None:
    """End a process we started, in order if it can, otherwise at once."""
    if process.poll() is None:
        process.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_DEADLINE)
        return
    process.kill()
    process.wait()
