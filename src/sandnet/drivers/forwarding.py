"""IP forwarding of the host: on for sandnet's networks, and restricted to them if it was off before.

The kernel enables forwarding for a family as a whole. sandnet's networks need it, and a host on which it was off
before would then be a router between all its other networks as well. So for such a family the table drops forwarded
packets that concern no bridge of a network. A link that forwarded before by its own switch continues to forward.

The store contains what each switch was before, together with the other changed parameters: a restart decides the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Final

from sandnet.drivers.sysctls import SysctlManager
from sandnet.firewall.ruleset.elements import Element, inet_set
from sandnet.kernel.base import Kernel
from sandnet.kernel.nft_types import join_parts, link_name, padded, protocol_number
from sandnet.kernel.types import Listing, Value
from sandnet.kernel.workers import Workers
from sandnet.model import Network

_log = logging.getLogger(__name__)

_SWITCHES: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_OWN: Final = {4: ("net/ipv4/conf/", "/forwarding"), 6: ("net/ipv6/conf/", "/force_forwarding")}
"""By family: prefix and suffix of a link's name in the path of the link's own switch (ip-sysctl)."""
_NUMBERS: Final = {4: 2, 6: 10}
"""``NFPROTO_IPV4`` and ``NFPROTO_IPV6`` (linux/netfilter.h), as the sets contain them."""
CLOSED: Final = "closed_families"
OPEN_LINKS: Final = "open_links"
Elements = Sequence[tuple[Element, Value]]


class Forwarding:
    """The families that are restricted. Callers serialize their calls."""

    def __init__(self, sysctls: SysctlManager, kernel: Kernel, workers: Workers, *, leave_open: bool) -> None:
        self._sysctls = sysctls
        self._kernel = kernel
        self._workers = workers
        self._leave_open = leave_open
        self._decided: dict[int, Elements] = {}

    def elements(self) -> Elements:
        """Return the elements of the table's sets for the families that were decided."""
        return [element for found in self._decided.values() for element in found]

    async def start(self, nets: Sequence[Network]) -> None:
        """Decide about the families of these networks, and those that an earlier run enabled for others."""
        remembered = await self._sysctls.remembered()
        await self._decide({family for family, switch in _SWITCHES.items() if switch in remembered})
        await self.decide(nets)

    async def decide(self, nets: Sequence[Network]) -> Elements:
        """Decide about the families of these networks, before forwarding is enabled for them.

        Returns:
            The elements that are new since the last call.
        """
        return await self._decide({4 for _ in nets} | {6 for net in nets if net.ipv6})

    async def _decide(self, families: Set[int]) -> Elements:
        new: list[tuple[Element, Value]] = []
        for family in sorted(families - self._decided.keys()):
            self._decided[family] = [] if self._leave_open else await self._restricting(family)
            new += self._decided[family]
        return new

    async def restore(self, listing: Listing | None) -> None:
        """Restore from a table of an earlier run what the store has lost."""
        found = listing.elements if listing else {}
        for family, number in _NUMBERS.items():
            prefix, suffix = _OWN[family]
            if protocol_number(number) in found.get(CLOSED, {}):
                await self._sysctls.remember(_SWITCHES[family], "0")
                own = padded(protocol_number(number))
                links = (key.removeprefix(own) for key in found.get(OPEN_LINKS, {}) if key.startswith(own))
                names = [link.rstrip(b"\0").decode() for link in links]
                await self._remember(f"{prefix}{name}{suffix}" for name in names)

    async def _restricting(self, family: int) -> Elements:
        """Return the elements that restrict a family; none if forwarding was on before."""
        switch = _SWITCHES[family]
        remembered = await self._sysctls.remembered()
        if remembered.get(switch, await self._read(switch)) != "0":
            return []
        if switch not in remembered:
            _log.info("%s was off: only what concerns networks of sandnet is forwarded (forward_others)", switch)
            await self._remember([name for name in await self._own_switches(family) if await self._read(name) == "1"])
            remembered = await self._sysctls.remembered()
        prefix, suffix = _OWN[family]
        number = protocol_number(_NUMBERS[family])
        open_ = (name for name in sorted(remembered) if remembered[name] == "1")
        names = [name for name in open_ if name.startswith(prefix) and name.endswith(suffix)]
        links = [name.removeprefix(prefix).removesuffix(suffix) for name in names if name != switch]
        allowed = [Element(inet_set(OPEN_LINKS), join_parts(number, link_name(link))) for link in links]
        return [(element, b"") for element in (Element(inet_set(CLOSED), number), *allowed)]

    async def _own_switches(self, family: int) -> Sequence[str]:
        prefix, suffix = _OWN[family]
        return [f"{prefix}{link.name}{suffix}" for link in await self._workers.run(self._kernel.links.list)]

    async def _remember(self, names: Iterable[str]) -> None:
        for name in names:
            await self._sysctls.remember(name, "1")

    async def _read(self, name: str) -> str | None:
        return await self._workers.run(self._kernel.sysctl.get, name)
