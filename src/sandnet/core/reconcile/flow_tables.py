"""How full the host's table of tracked connections is: when it is full, the kernel refuses what is new, anybody's."""

from __future__ import annotations

from typing import Final

from sandnet.core.reconcile.drift import Drift
from sandnet.errors import Error
from sandnet.firewall.balancing.flow_learning import FULL
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.kernel.base import Firewall, Sysctl
from sandnet.kernel.workers import Workers
from sandnet.model.ports import PROTOCOL_NAMES

COUNT: Final = "net/netfilter/nf_conntrack_count"
MOST: Final = "net/netfilter/nf_conntrack_max"
ALARMING: Final = 80
"""Percent."""


class FlowTable:
    """Looks at it, and remembers what it saw."""

    def __init__(self, sysctl: Sysctl, workers: Workers) -> None:
        self._sysctl = sysctl
        self._workers = workers
        self.problems: list[str] = []
        """That it is nearly full, in words; else nothing."""

    async def check(self) -> None:
        """Read how many flows are tracked, and how many may be.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not say.
        """
        count, most = await self._workers.run(self._read)
        self.problems = []
        if most and count * 100 >= most * ALARMING:
            text = f"connection tracking holds {count} of at most {most} flows ({count * 100 // most} %)"
            self.problems = [f"{text}: when it is full the host refuses new ones; see max_flows, nf_conntrack_max"]

    def _read(self) -> tuple[int, int]:
        found = [self._sysctl.get(name) or "" for name in (COUNT, MOST)]
        return (int(found[0]), int(found[1])) if all(map(str.isdecimal, found)) else (0, 0)


class ServiceFlows:
    """Report that the room for learned flows of services is used up (docs/services.md)."""

    EVERY: Final = 5
    """Looks, one each second, of which one reads the set: it takes libnftables about a millisecond."""

    def __init__(self, firewall: Firewall, workers: Workers) -> None:
        self._firewall = firewall
        self._workers = workers
        self._looks = 0
        self.problems: list[str] = []
        """One for each protocol whose map was found full within the last five minutes; else nothing."""

    async def check(self) -> None:
        """Read the set to which the rules add a protocol when its map has no room; keep what is known if that fails."""
        self._looks += 1
        if self._looks % self.EVERY == 1:
            self.problems = await self._workers.run(self._read)

    async def drift(self) -> list[Drift]:
        """Read the set now, and return what is reported as differences that no repair removes."""
        self.problems = await self._workers.run(self._read)
        done = "not repaired: the report ends five minutes after the last flow that found no room"
        split = (problem.partition(": ") for problem in self.problems)
        return [Drift("rules", BRIDGE, problem, reason, done) for problem, _, reason in split]

    def _read(self) -> list[str]:
        try:
            found = self._firewall.members(BRIDGE, FULL)
        except Error:  # the comparison of the rules reports it
            return self.problems
        protocols = sorted({int(each.split()[0]) for each in found if each.split()[0].isdigit()})
        return [
            f"no room for more flows of {PROTOCOL_NAMES.get(number, str(number))} services: a new one is not kept "
            "by itself and may change its backend when backends change; end the sandboxes that open flows without end"
            for number in protocols
        ]
