"""Keeps the host's own links taking router advertisements although the host forwards IPv6 for our networks.

A host that forwards takes no advertisements by itself, and loses the default route that it has from them (ip-sysctl:
``accept_ra``, where 1 means "unless forwarding" and 2 "in any case"). So where sandnet itself switched forwarding on,
each link that had 1 gets 2, before; so do links to come, and what somebody sets to 1 later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.drivers.sysctls import SysctlManager
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Link
from sandnet.kernel.workers import Workers
from sandnet.model.link_names import OWN_LINK

FORWARDING: Final = "net/ipv6/conf/all/forwarding"
PAUSE: Final = 5.0
"""Seconds between two lists of all links: with 1,000 sandboxes one takes 15 ms."""
_TO_COME: Final = "default"
_FORWARDS_PORTS: Final = ("bridge", "bond", "team")
"""Kinds of links that take in what comes to their ports."""


class Advertisements:
    """Which links take advertisements."""

    def __init__(self, tuning: SysctlManager, kernel: Kernel, workers: Workers) -> None:
        self._tuning = tuning
        self._kernel = kernel
        self._workers = workers
        self._active = False
        """The host forwards because of us."""
        self._check = 0.0

    async def switch_on(self) -> None:
        """Have the host forward IPv6, and lose nothing by it.

        Raises:
            Error: ``UNAVAILABLE`` a parameter cannot be written.
        """
        if not self._active:
            was = (await self._tuning.remembered()).get(FORWARDING)
            found = await self._workers.run(self._kernel.sysctl.get, FORWARDING)
            self._active = (was or found) == "0"
            await self.maintain()
        await self._tuning.ensure(FORWARDING, "1")

    async def changed(self) -> Sequence[str]:
        """Parameters of links that take no advertisements because of us; now and then."""
        now = time.monotonic()
        if not self._active or now < self._check:
            return []
        self._check = now + PAUSE
        return await self._workers.run(self._taking)

    async def maintain(self) -> None:
        """Make such links take them, and ask the routers to advertise now: a route may be lost, or late.

        Raises:
            Error: ``UNAVAILABLE`` a parameter cannot be written.
        """
        if self._active:
            for name in await self._workers.run(self._taking):
                await self._tuning.ensure(name, "2")
            await self.solicit([name for name in await self._tuning.remembered() if name.endswith("/accept_ra")])

    async def solicit(self, names: Sequence[str]) -> None:
        """Ask the routers on the links that these parameters are of."""
        links = [name.split("/")[3] for name in names]
        links = [link for link in links if link != _TO_COME]
        if links:
            await self._workers.run(self._kernel.links.solicit, links)

    def _taking(self) -> list[str]:
        """Parameters of all links that take advertisements unless the host forwards."""
        links = self._kernel.links.list()
        names = (_parameter(name) for name in (_TO_COME, *_concerned(links)))
        return [name for name in names if self._kernel.sysctl.get(name) == "1"]


def _concerned(links: Sequence[Link]) -> Iterator[str]:
    kinds = {link.ifindex: link.kind for link in links}
    for link in links:
        if link.name != "lo" and not OWN_LINK.fullmatch(link.name) and kinds.get(link.master) not in _FORWARDS_PORTS:
            yield link.name


def _parameter(link: str) -> str:
    return f"net/ipv6/conf/{link}/accept_ra"
