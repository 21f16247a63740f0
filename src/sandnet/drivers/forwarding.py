"""Keeps a host closed that forwards packets only because we switched forwarding on.

The kernel switches forwarding for a family as a whole. For our networks it must be on, and a host on which it was off
before would then be a router between all its other networks as well. So for such a family the table drops what is
forwarded and concerns no bridge of a network. What a link forwarded before by a switch of its own stays open.

What each switch was before is in the store, beside the other parameters that we changed: a restart decides the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Final

from sandnet.drivers.sysctls import SysctlManager
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Listing
from sandnet.kernel.workers import Workers
from sandnet.model import Network

_log = logging.getLogger(__name__)

_SWITCHES: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_OWN: Final = {4: ("net/ipv4/conf/", "/forwarding"), 6: ("net/ipv6/conf/", "/force_forwarding")}
"""By family: what stands before and after a link's name in the switch of its own (ip-sysctl)."""
_NUMBERS: Final = {4: 2, 6: 10}
"""``NFPROTO_IPV4`` and ``NFPROTO_IPV6`` (linux/netfilter.h), as the sets spell them."""
CLOSED: Final = "closed_families"
OPEN_LINKS: Final = "open_links"
Elements = Sequence[tuple[str, str]]
"""Sets of the table, each with one element of it."""


class Forwarding:
    """Which families are closed. Callers take turns."""

    def __init__(self, tuning: SysctlManager, kernel: Kernel, workers: Workers, *, leave_open: bool) -> None:
        self._tuning = tuning
        self._kernel = kernel
        self._workers = workers
        self._leave_open = leave_open
        self._decided: dict[int, Elements] = {}

    def elements(self) -> Elements:
        """What the table's sets hold of the families that were decided about."""
        return [element for found in self._decided.values() for element in found]

    async def start(self, nets: Sequence[Network]) -> None:
        """Decide about the families of these networks, and those that an earlier run switched on for others."""
        remembered = await self._tuning.remembered()
        await self._decide({family for family, switch in _SWITCHES.items() if switch in remembered})
        await self.decide(nets)

    async def decide(self, nets: Sequence[Network]) -> Elements:
        """Decide about the families of these networks, before forwarding is switched on for them.

        Returns:
            What is new since the last call.
        """
        return await self._decide({4 for _ in nets} | {6 for net in nets if net.ipv6})

    async def _decide(self, families: Set[int]) -> Elements:
        new: list[tuple[str, str]] = []
        for family in sorted(families - self._decided.keys()):
            self._decided[family] = [] if self._leave_open else await self._closing(family)
            new += self._decided[family]
        return new

    async def recall(self, listing: Listing | None) -> None:
        """Remember what a table of an earlier run says, where the store has lost it."""
        found = listing.elements if listing else {}
        for family, number in _NUMBERS.items():
            before, behind = _OWN[family]
            if str(number) in found.get(CLOSED, ()):
                await self._tuning.remember(_SWITCHES[family], "0")
                pairs = (element.split(" . ", 1) for element in found.get(OPEN_LINKS, ()))
                names = [link.strip('"') for own, link in pairs if own == str(number)]
                await self._remember(f"{before}{name}{behind}" for name in names)

    async def _closing(self, family: int) -> Elements:
        """The elements that close a family; none where forwarding was on before."""
        switch = _SWITCHES[family]
        remembered = await self._tuning.remembered()
        if remembered.get(switch, await self._read(switch)) != "0":
            return []
        if switch not in remembered:
            _log.info("%s was off: only what concerns networks of sandnet is forwarded (forward_others)", switch)
            await self._remember([name for name in await self._own_switches(family) if await self._read(name) == "1"])
            remembered = await self._tuning.remembered()
        before, behind = _OWN[family]
        number = str(_NUMBERS[family])
        open_ = (name for name in sorted(remembered) if remembered[name] == "1")
        names = [name for name in open_ if name.startswith(before) and name.endswith(behind)]
        links = [name.removeprefix(before).removesuffix(behind) for name in names if name != switch]
        return [(CLOSED, number), *((OPEN_LINKS, f'{number} . "{link}"') for link in links)]

    async def _own_switches(self, family: int) -> Sequence[str]:
        before, behind = _OWN[family]
        return [f"{before}{link.name}{behind}" for link in await self._workers.run(self._kernel.links.list)]

    async def _remember(self, names: Iterable[str]) -> None:
        for name in names:
            await self._tuning.remember(name, "1")

    async def _read(self, name: str) -> str | None:
        return await self._workers.run(self._kernel.sysctl.get, name)
