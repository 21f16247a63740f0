"""Tracked connections to backends that are gone, forgotten a moment later and together.

Nothing new is translated to who is gone already, so nobody has to wait. The kernel's walk over all flows takes 9 ms,
in which it lets no grace period end: deletes of links and mounts meanwhile would wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from sandnet.errors import Error
from sandnet.kernel.base import Firewall
from sandnet.kernel.workers import Workers
from sandnet.model import Address

_log = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds to gather addresses before one walk forgets the flows of all."""


class Forgetting:
    """One background task that calls :meth:`Firewall.forget_flows` for addresses nobody is translated to any more."""

    def __init__(self, firewall: Firewall, workers: Workers, pause: float = PAUSE) -> None:
        self._firewall = firewall
        self._workers = workers
        self._pause = pause
        self._waiting: set[Address] = set()
        self._walking: set[Address] = set()
        self._task: asyncio.Task[None] | None = None

    def soon(self, addresses: Iterable[Address]) -> None:
        """Forget flows translated to these."""
        self._waiting.update(addresses)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def settle(self, addresses: Collection[Address]) -> None:
        """Wait until no flow of an earlier bearer of these is to be forgotten: it would hit the next one's."""
        if self._task and not (self._waiting | self._walking).isdisjoint(addresses):
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._pause)
            self._walking, self._waiting = self._waiting, set()
            try:
                await self._workers.run(self._firewall.forget_flows, addresses=self._walking)
            except Error as failure:
                _log.warning("flows to %s are still tracked: %s", ", ".join(map(str, self._walking)), failure)
            finally:
                self._walking = set()
