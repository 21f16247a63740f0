"""How many prepared sandboxes to hold: a function of configuration and demand, without a clock of its own."""

from __future__ import annotations

from typing import Final, NamedTuple

IDLE: Final = 60.0
"""Seconds without demand after which the pool halves."""


class PoolLimits(NamedTuple):
    """The bounds of the pool's size; a sandbox takes about 300 KiB of kernel memory and three descriptors."""

    least: int = 0
    """How many it holds without demand; 0: the pool is off."""
    most: int = 0
    """How many it holds at most, whatever the demand."""


class PoolSize:
    """The desired number of prepared sandboxes.

    A request that finds none makes the pool larger by one, so it grows to the size of the bursts that it sees. Where
    less than half of it was used for a minute, it halves.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self._least = limits.least
        self._most = max(limits.least, limits.most) if limits.least else 0
        self.target = limits.least
        self._used_at = 0.0

    @property
    def most(self) -> int:
        """The upper bound in force; 0: the pool is off."""
        return self._most

    def missed(self, now: float) -> None:
        """Record a request that found no sandbox, at a time in seconds."""
        self.target = min(self.target + 1, self._most)
        self._used_at = now

    def taken(self, left: int, now: float) -> None:
        """Record a request that got a sandbox and left so many."""
        if left < self.target / 2:
            self._used_at = now

    def shrink(self, now: float) -> None:
        """Halve the size where there was little demand for a minute."""
        if self.target > self._least and now - self._used_at >= IDLE:
            self.target = max(self._least, self.target // 2)
            self._used_at = now
