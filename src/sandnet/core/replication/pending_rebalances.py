"""Endpoints whose flows do not follow yet what has changed on other hosts."""

from __future__ import annotations

from sandnet.core.lifecycle.backends import Backends


class PendingRebalances:
    """Distributes the flows of endpoints over their backends again, and repeats that until the kernel takes it.

    The records are changed first. So an attempt that fails cannot be found by comparing records.
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._endpoints: set[str] = set()

    def add(self, endpoint_id: str) -> None:
        """Add an endpoint, before its records are changed."""
        self._endpoints.add(endpoint_id)

    async def apply(self, endpoint_id: str) -> None:
        """Rebalance an endpoint if it was added after its last successful rebalance; do nothing for a deleted one.

        Raises:
            Error: the kernel refuses; the next call tries again.
        """
        if endpoint_id in self._endpoints:
            await self._backends.rebalance_endpoint(endpoint_id)
            self._endpoints.discard(endpoint_id)
