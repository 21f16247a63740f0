"""Router advertisements: the host's own links continue to accept them although the host forwards IPv6.

A forwarding host accepts no advertisements by default, and loses the default route that it has from them (ip-sysctl:
``accept_ra``, where 1 means "unless forwarding" and 2 "in any case"). So if sandnet itself enables forwarding, it first
changes 1 to 2 on each link. New links get the same, as does a link that another program sets to 1 later.
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
_NEW_LINKS: Final = "default"
_FORWARDS_PORTS: Final = ("bridge", "bond", "team")
"""Kinds of links that receive the packets of their ports."""


class RouterAdvertisements:
    """The links that accept advertisements."""

    def __init__(self, sysctls: SysctlManager, kernel: Kernel, workers: Workers) -> None:
        self._sysctls = sysctls
        self._kernel = kernel
        self._workers = workers
        self._active = False
        """Whether sandnet enabled the host's forwarding."""
        self._check = 0.0

    async def enable_forwarding(self) -> None:
        """Enable IPv6 forwarding of the host, without the loss of advertisements.

        Raises:
            Error: ``UNAVAILABLE`` a parameter cannot be written.
        """
        if not self._active:
            was = (await self._sysctls.remembered()).get(FORWARDING)
            found = await self._workers.run(self._kernel.sysctl.get, FORWARDING)
            self._active = (was or found) == "0"
            await self.maintain()
        await self._sysctls.ensure(FORWARDING, "1")

    async def changed(self) -> Sequence[str]:
        """Return the parameters of links that ignore advertisements because of sandnet; checked every few seconds."""
        now = time.monotonic()
        if not self._active or now < self._check:
            return []
        self._check = now + PAUSE
        return await self._workers.run(self._accepting)

    async def maintain(self) -> None:
        """Make such links accept them, and send router solicitations: a route may be lost, or late.

        Raises:
            Error: ``UNAVAILABLE`` a parameter cannot be written.
        """
        if self._active:
            for name in await self._workers.run(self._accepting):
                await self._sysctls.ensure(name, "2")
            await self.solicit([name for name in await self._sysctls.remembered() if name.endswith("/accept_ra")])

    async def solicit(self, names: Sequence[str]) -> None:
        """Send router solicitations on the links of these parameters."""
        links = [name.split("/")[3] for name in names]
        links = [link for link in links if link != _NEW_LINKS]
        if links:
            await self._workers.run(self._kernel.links.solicit, links)

    def _accepting(self) -> list[str]:
        """Return the parameters of all links that accept advertisements unless the host forwards."""
        links = self._kernel.links.list()
        names = (_parameter(name) for name in (_NEW_LINKS, *_concerned(links)))
        return [name for name in names if self._kernel.sysctl.get(name) == "1"]


def _concerned(links: Sequence[Link]) -> Iterator[str]:
    kinds = {link.ifindex: link.kind for link in links}
    for link in links:
        if link.name != "lo" and not OWN_LINK.fullmatch(link.name) and kinds.get(link.master) not in _FORWARDS_PORTS:
            yield link.name


def _parameter(link: str) -> str:
    return f"net/ipv6/conf/{link}/accept_ra"
