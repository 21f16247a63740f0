"""How many probes of one host are answered: what is sent in a member's name must not become a flood to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

BURST: Final = 400.0
"""Answers at once. A check with a search for the largest packet sends about 150 probes."""
RATE: Final = 100.0
"""Answers a second after that."""


class AnswerLimits:
    """A token bucket for each host.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """By host: tokens, and when they were counted."""

    def keep(self, hosts: Collection[str]) -> None:
        """Forget all other hosts: they were removed."""
        self._buckets = {host: bucket for host, bucket in self._buckets.items() if host in hosts}

    def allow(self, host: str) -> bool:
        """Return whether one more answer may be sent to a host."""
        now = self._clock()
        tokens, counted = self._buckets.get(host, (BURST, now))
        tokens = min(BURST, tokens + (now - counted) * RATE)
        self._buckets[host] = (max(0.0, tokens - 1), now)
        return tokens >= 1
