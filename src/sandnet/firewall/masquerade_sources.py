"""Source addresses of masqueraded traffic: the source that its route prefers, as for the host's own traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import summarize_address_range
from typing import Final

from sandnet.kernel.base import Host
from sandnet.kernel.types import RouteSource
from sandnet.kernel.workers import Workers
from sandnet.model.address import Address

MAPS: Final = {4: "preferred4", 6: "preferred6"}
"""The inet table's maps, by IP version: from link and destinations to the source address."""
TABLE: Final = "inet sandnet"


class RouteSources:
    """The maps of source addresses, kept equal to the host's routes.

    Args:
        host: returns its routes.
        workers: threads for its calls.
        apply: applies statements as one transaction.
    """

    def __init__(self, host: Host, workers: Workers, apply: Callable[[Iterable[str]], Awaitable[None]]) -> None:
        self._host = host
        self._workers = workers
        self._apply = apply
        self._known: Sequence[tuple[str, str]] = ()
        self._following = False
        self._lock = asyncio.Lock()

    def elements(self) -> Sequence[tuple[str, str]]:
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
                await self._apply(_change(old, new))
            except BaseException:
                self._known = old  # the next call retries
                raise

    async def _read(self) -> Sequence[tuple[str, str]]:
        return [element(each) for each in await self._workers.run(self._host.route_sources)]


def element(found: RouteSource) -> tuple[str, str]:
    """Return the map, and its element as the kernel's listing spells it."""
    return MAPS[found.first.version], f'"{found.link}" . {_span(found.first, found.last)} : {found.source}'


def _span(first: Address, last: Address) -> str:
    """Spell a range as nft does: an address or a prefix where it is one."""
    if first == last:
        return str(first)
    prefix, *more = summarize_address_range(first, last)
    return f"{first}-{last}" if more else str(prefix)


def _change(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, text in sorted({*old} - {*new}):
        yield f"delete element {TABLE} {name} {{ {text} }}"
    for name, text in sorted({*new} - {*old}):
        yield f"add element {TABLE} {name} {{ {text} }}"
