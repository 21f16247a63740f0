"""Deletes retired links in bulk, a moment after they were silenced.

Deleting a veth costs the kernel a grace period of 16 to 22 ms; sixty deleted one by one take 970 ms, in one request 35
ms (docs/design.md). So a leave silences its link and answers, and this garbage collection deletes the links later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from typing import ParamSpec

from sandnet.errors import Error
from sandnet.kernel.base import Links
from sandnet.kernel.batcher import Batcher
from sandnet.kernel.workers import Workers

P = ParamSpec("P")

_log = logging.getLogger(__name__)


class LinkReaper:
    """Calls :meth:`Links.reap` in the background when links have been retired."""

    def __init__(self, links: Links, workers: Workers) -> None:
        self._links = links
        self._workers = workers
        self._bridges: list[str] = []
        self._batches = Batcher[str](self._reap)

    def schedule(self, owner: str) -> None:
        """Have a retired link of ``owner`` (a container id) deleted."""
        self._batches.add([owner])

    def schedule_bridge(self, bridge: str) -> None:
        """Delete a bridge that nothing uses any more; it is its own owner.

        Bridges gain nothing from one request for all (18 ms each either way). Between single requests, joins of other
        clients can take the kernel's lock.
        """
        self._bridges.append(bridge)
        self._batches.add([bridge])

    @property
    def owners(self) -> Set[str]:
        """Owners of the links that are about to be deleted; bridges by their own name."""
        return self._batches.pending

    async def wait(self, owner: str = "") -> None:
        """Wait until the retired links of ``owner`` (of all owners, when empty) are deleted."""
        await self._batches.wait(lambda owners: owner in owners if owner else bool(owners))

    async def _reap(self, _owners: Set[str]) -> None:
        bridges, self._bridges = self._bridges, []
        await self._try(self._links.reap)
        for bridge in bridges:
            await self._try(self._links.delete, [bridge])

    async def _try(self, job: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await self._workers.run(job, *args, **kwargs)
        except Error as failure:
            _log.warning("links of removed sandboxes stay until the next start: %s", failure)
