"""Tracked connections to backends that are gone, forgotten a moment later and together.

Nothing new is translated to who is gone already, so nobody has to wait. The kernel's walk over all flows takes 9 ms,
in which it lets no grace period end: deletes of links and mounts meanwhile would wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Set

from sandnet.errors import Error
from sandnet.kernel.base import Firewall
from sandnet.kernel.batcher import PAUSE, Batcher
from sandnet.kernel.workers import Workers
from sandnet.model import Address

_log = logging.getLogger(__name__)


class ConntrackCleanup:
    """Calls :meth:`Firewall.forget_flows` in the background for addresses nobody is translated to any more."""

    def __init__(self, firewall: Firewall, workers: Workers, pause: float = PAUSE) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rounds = Batcher[Address](self._forget, pause)

    def add(self, addresses: Iterable[Address]) -> None:
        """Forget flows translated to these."""
        self._rounds.add(addresses)

    async def wait(self, addresses: Collection[Address]) -> None:
        """Wait until no flow of an earlier bearer of these is to be forgotten: it would hit the next one's."""
        await self._rounds.wait(lambda pending: not pending.isdisjoint(addresses))

    async def _forget(self, addresses: Set[Address]) -> None:
        try:
            await self._workers.run(self._firewall.forget_flows, addresses=addresses)
        except Error as failure:
            _log.warning("flows to %s are still tracked: %s", ", ".join(map(str, addresses)), failure)
