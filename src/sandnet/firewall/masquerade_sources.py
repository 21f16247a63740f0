"""Source addresses of masqueraded traffic: the source that its route prefers, as for the host's own traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from sandnet.firewall.ruleset.elements import Element, inet_set
from sandnet.kernel.base import Host
from sandnet.kernel.nft_types import link_name
from sandnet.kernel.types import RouteSource, Value
from sandnet.kernel.workers import Workers

MAPS: Final = {4: "preferred4", 6: "preferred6"}
"""The inet table's maps, by IP version: from link and destinations to the source address."""
_Change = Callable[[Iterable[tuple[Element, Value]], Iterable[tuple[Element, Value]]], Awaitable[None]]


class RouteSources:
    """The maps of source addresses, kept equal to the host's routes.

    Args:
        host: returns its routes.
        workers: threads for its calls.
        change: removes elements and adds others, as one transaction.
    """

    def __init__(self, host: Host, workers: Workers, change: _Change) -> None:
        self._host = host
        self._workers = workers
        self._change = change
        self._known: Sequence[tuple[Element, Value]] = ()
        self._following = False
        self._lock = asyncio.Lock()

    def elements(self) -> Sequence[tuple[Element, Value]]:
        """Return what the maps hold."""
        return self._known

    async def start(self) -> None:
        """Read the routes for the table that is about to be made, and follow them from then on.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return them.
        """
        self._known = await self._read()
        self._following = True

    def stop(self) -> None:
        """Stop following: the table is about to be deleted."""
        self._following = False

    async def follow(self) -> None:
        """Change the maps where routes have changed since the last call; cheap if none has.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return the routes, or refuses the change.
        """
        async with self._lock:
            if not self._following:
                return
            old, new = self._known, await self._read()
            if old == new:
                return
            self._known = new  # before the change: if the table was removed, it is made again with this
            try:
                await self._change({*old} - {*new}, {*new} - {*old})
            except BaseException:
                self._known = old  # the next call retries
                raise

    async def _read(self) -> Sequence[tuple[Element, Value]]:
        return [element(each) for each in await self._workers.run(self._host.route_sources)]


def element(found: RouteSource) -> tuple[Element, Value]:
    """Return the element for a route's source."""
    link = link_name(found.link)
    ends = link + found.first.packed + link + found.last.packed
    return Element(inet_set(MAPS[found.first.version], ranges=True), ends), found.source.packed
