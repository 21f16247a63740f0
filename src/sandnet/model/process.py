"""The identity of a process on the host, which a later process with the same pid does not share."""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True):
    """One process, unique until the next boot of the machine."""

    pid: int
    """Process id in the daemon's PID namespace."""
    started: int
    """Start time in clock ticks since boot (proc_pid_stat(5), field 22)."""
