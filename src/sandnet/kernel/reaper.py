"""Deletes dead links in bulk, a moment after they fell silent.

Deleting a veth costs the kernel a grace period of 16 to 22 ms; sixty deleted one by one take 970 ms, in
one request 35 ms (docs/design.md). So a leave silences its link and answers, and this collects the dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import ParamSpec

from sandnet.errors import Error
from sandnet.kernel.base import Links
from sandnet.kernel.workers import Workers

P = ParamSpec("P")

_log = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds to gather links before one request deletes them all."""


class Reaper:
    """One background task that calls :meth:`Links.reap` when links have been retired."""

    def __init__(self, links: Links, workers: Workers, pause: float = PAUSE) -> None:
        self._links = links
        self._workers = workers
        self._pause = pause
        self._task: asyncio.Task[None] | None = None
        self._waiting: set[str] = set()
        self._reaping: set[str] = set()
        self._bridges: list[str] = []
        self._round = asyncio.Event()

    def kick(self, owner: str) -> None:
        """A link of ``owner`` (a container id) was retired."""
        self._wait_for(owner)

    def bury(self, bridge: str) -> None:
        """Delete a bridge that nothing uses any more; it is its own owner.

        Bridges gain nothing from one request for all (18 ms each either way), and one at a time lets the joins
        of others take their turn at the kernel's lock in between.
        """
        self._bridges.append(bridge)
        self._wait_for(bridge)

    @property
    def owners(self) -> set[str]:
        """Whose links are about to be deleted, bridges by their own name."""
        return self._waiting | self._reaping

    def _wait_for(self, owner: str) -> None:
        self._waiting.add(owner)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def settle(self, owner: str = "") -> None:
        """Wait until the dead links of ``owner`` (of everybody, when empty) are gone."""
        while (owner in self._waiting | self._reaping) if owner else (self._waiting or self._reaping):
            await self._round.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._pause)
            self._reaping, self._waiting = self._waiting, set()
            bridges, self._bridges = self._bridges, []
            try:
                await self._try(self._links.reap)
                for bridge in bridges:
                    await self._try(self._links.delete, [bridge])
            finally:
                self._reaping = set()
                self._round.set()
                self._round = asyncio.Event()

    async def _try(self, job: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await self._workers.run(job, *args, **kwargs)
        except Error as failure:
            _log.warning("dead links stay until the next start sweeps them: %s", failure)
