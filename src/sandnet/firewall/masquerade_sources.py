"""Makes masqueraded traffic bear the source that its route prefers, as what the host itself sends does."""

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
"""Of the inet table: link and destinations to the address that packets bear."""
TABLE: Final = "inet sandnet"


class RouteSources:
    """Keeps the maps as the host's routes are.

    Args:
        host: tells of its routes.
        workers: what its calls run on.
        apply: has statements run as one transaction.
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
        """Read what there is, for the table that is about to be made, and follow it from then on.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell.
        """
        self._known = await self._read()
        self._following = True

    def stop(self) -> None:
        """Follow no longer: the table is about to go."""
        self._following = False

    async def follow(self) -> None:
        """Change the maps where routes have changed since the last call; cheap where none has.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell, or refuses.
        """
        async with self._lock:
            if not self._following:
                return
            old, new = self._known, await self._read()
            if old == new:
                return
            self._known = new  # before the change: where the table is gone it is made again with this
            try:
                await self._apply(_change(old, new))
            except BaseException:
                self._known = old  # the next call tries again
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
