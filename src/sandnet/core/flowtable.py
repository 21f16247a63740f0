"""How full the host's table of tracked connections is: when it is full, the kernel refuses what is new, anybody's."""

from __future__ import annotations

from typing import Final

from sandnet.kernel.base import Sysctl
from sandnet.kernel.workers import Workers

COUNT: Final = "net/netfilter/nf_conntrack_count"
MOST: Final = "net/netfilter/nf_conntrack_max"
ALARMING: Final = 80
"""Percent."""


class FlowTable:
    """Looks at it, and remembers what it saw."""

    def __init__(self, sysctl: Sysctl, workers: Workers) -> None:
        self._sysctl = sysctl
        self._workers = workers
        self.problems: list[str] = []
        """That it is nearly full, in words; else nothing."""

    async def look(self) -> None:
        """Read how many flows are tracked, and how many may be.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not say.
        """
        count, most = await self._workers.run(self._read)
        self.problems = []
        if most and count * 100 >= most * ALARMING:
            text = f"connection tracking holds {count} of at most {most} flows ({count * 100 // most} %)"
            self.problems = [f"{text}: when it is full the host refuses new ones; see max_flows, nf_conntrack_max"]

    def _read(self) -> tuple[int, int]:
        found = [self._sysctl.get(name) or "" for name in (COUNT, MOST)]
        return (int(found[0]), int(found[1])) if all(map(str.isdecimal, found)) else (0, 0)
