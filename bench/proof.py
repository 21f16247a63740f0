"""Evidence that the hot paths start no process and use no iptables."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from bench.host import children, ended_children_faults
from bench.sandnet_daemon import Daemon


class Started:
    """Whether a process has started others since this object was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._seen()

    def _seen(self) -> tuple[list[int], int]:
        return children(self._pid), ended_children_faults(self._pid)

    def summary(self) -> str:
        """Return a sentence for the report."""
        if self._seen() != self._before:
            return "The daemon started other processes during these calls."
        if _ignores_ended_children(self._pid):
            return "The benchmark cannot determine whether the daemon started processes: it ignores SIGCHLD."
        return (
            "The daemon started no process during these calls: its list of children did not change, and "
            "`/proc/PID/stat` counts no page fault of a child that ended. Its `PATH` contained no program."
        )


def _ignores_ended_children(pid: int) -> bool:
    """Where SIGCHLD is ignored, ended children are not accounted for (proc(5), wait(2))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(ignored >> (signal.SIGCHLD - 1) & 1)


def foreign_tables(daemon: Daemon) -> str:
    """Return what the daemon's host has of packet filter tables beside our own: those of iptables would be there."""
    if shutil.which("nft") is None:
        return "nft is not installed: the tables of the packet filter were not checked."
    legacy = Path(f"/proc/{daemon.pid}/net/ip_tables_names")
    names = legacy.read_text().split() if legacy.exists() else []
    tables = [line.split()[2] for line in daemon.host.run(["nft", "list", "tables"]).splitlines()]
    foreign = sorted({*names, *tables} - {"sandnet"})
    if foreign:
        return f"Packet filter tables that are not sandnet's: {', '.join(foreign)}."
    return "The packet filter has no tables except sandnet's own, so iptables was not used."
