"""Report that the kernel's neighbour table is full: then new neighbours are not reached, on any network.

All namespaces share one table. A sandbox that sends to many addresses of its own network fills it, and the kernel has
no limit for one namespace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from sandnet.kernel.observation import StateReader
from sandnet.kernel.workers import Workers

HOLD: Final = 60.0
"""Seconds for which it is reported after the latest overflow."""
_LIMIT: Final = "net.ipv{version}.neigh.default.gc_thresh3"


class NeighbourTable:
    """The kernel's overflow counters, and the time when they last grew.

    Args:
        state_reader: reads the counters.
        workers: run the reads.
        clock: returns seconds that never decrease.
    """

    def __init__(
        self, state_reader: StateReader, workers: Workers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state_reader = state_reader
        self._workers = workers
        self._clock = clock
        self._counts: Mapping[int, int] = {}
        self._full: dict[int, float] = {}
        """The time of the latest overflow, by IP version."""

    @property
    def full(self) -> frozenset[int]:
        """The IP versions whose table was full a short time ago."""
        now = self._clock()
        return frozenset(version for version, at in self._full.items() if now - at < HOLD)

    @property
    def problems(self) -> list[str]:
        """One text for each IP version."""
        return [_problem(version) for version in sorted(self.full)]

    async def check(self) -> None:
        """Read the counters. The first call only sets the baseline."""
        counts = await self._workers.run(self._state_reader.neighbour_overflows)
        for version, count in counts.items():
            if count > self._counts.get(version, count):
                self._full[version] = self._clock()
        self._counts = counts


def _problem(version: int) -> str:
    return (
        f"the kernel's table of IPv{version} neighbours, one for the host and all sandboxes, has no room: who is not "
        f"in it is not reached; end what sends to many addresses (ip neigh), or raise {_LIMIT.format(version=version)}"
    )
