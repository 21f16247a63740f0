"""Deletion of conntrack entries to removed backends, batched in the background.

No new flow is translated to a removed backend, so no caller has to wait. The kernel's walk over all flows takes 9 ms,
in which no grace period of it can end: deletions of links and mounts would wait for it. So walks take a small part of
the time only. The next owner of a backend's address has to wait, so it does not wait for a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Set
from typing import Final

from sandnet.errors import Error
from sandnet.kernel.base import Firewall
from sandnet.kernel.batcher import PAUSE, Batcher
from sandnet.kernel.workers import Workers
from sandnet.model import Address

SHARE: Final = 0.05
"""The part of the time that walks may take."""

_log = logging.getLogger(__name__)


class ConntrackCleanup:
    """Background calls of :meth:`Firewall.forget_flows` for addresses to which no flow is translated any more."""

    def __init__(self, firewall: Firewall, workers: Workers, pause: float = PAUSE) -> None:
        self._firewall = firewall
        self._workers = workers
        self._batches = Batcher[Address](self._forget, pause, SHARE)

    def add(self, addresses: Iterable[Address]) -> None:
        """Forget flows translated to these, in the background."""
        self._batches.add(addresses)

    async def wait(self, addresses: Collection[Address]) -> None:
        """Wait until no flow to these addresses is left to be forgotten: it could be a flow of their next owner."""
        await self._batches.wait(lambda pending: not pending.isdisjoint(addresses))

    async def _forget(self, addresses: Set[Address]) -> None:
        try:
            await self._workers.run(self._firewall.forget_flows, addresses=addresses)
        except Error as failure:
            _log.warning("flows to %s are still tracked: %s", ", ".join(map(str, addresses)), failure)
