"""A process of the host, told from a later one that got its number."""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True):
    """One process, for as long as the machine runs."""

    pid: int
    """In the daemon's PID namespace."""
    started: int
    """Clock ticks since boot (proc_pid_stat(5), field 22)."""
