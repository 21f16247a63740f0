"""Report how full the host's connection tracking table is.

When it is full, the kernel refuses new flows of all programs.
"""

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
"""The percentage of use from which it is reported."""


class FlowTable:
    """The use of the connection tracking table at the latest check."""

    def __init__(self, sysctl: Sysctl, workers: Workers) -> None:
        self._sysctl = sysctl
        self._workers = workers
        self.problems: list[str] = []
        """The report that the table is nearly full; else empty."""

    async def check(self) -> None:
        """Read the number of tracked flows and the limit.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return them.
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
    """The report that the room for learned flows of services is used up (docs/services.md)."""

    EVERY: Final = 5
    """The number of checks, one each second, of which one reads the set: that takes libnftables about a millisecond."""

    def __init__(self, firewall: Firewall, workers: Workers) -> None:
        self._firewall = firewall
        self._workers = workers
        self._checks = 0
        self.problems: list[str] = []
        """One for each protocol whose map was found full within the last five minutes; else empty."""

    async def check(self) -> None:
        """Read the set to which the rules add a protocol when its map has no room.

        If that fails, the last result is kept.
        """
        self._checks += 1
        if self._checks % self.EVERY == 1:
            self.problems = await self._workers.run(self._read)

    async def drift(self) -> list[Drift]:
        """Read the set now, and return each report as a difference that no repair removes."""
        self.problems = await self._workers.run(self._read)
        done = "not repaired: the report ends five minutes after the last flow that found no room"
        split = (problem.partition(": ") for problem in self.problems)
        return [Drift("rules", BRIDGE, problem, reason, done) for problem, _, reason in split]

    def _read(self) -> list[str]:
        try:
            found = self._firewall.members(BRIDGE, FULL)
        except Error:  # the comparison of the rules reports it
            return self.problems
        protocols = sorted({key[0] for key in found})
        return [
            f"no room for more flows of {PROTOCOL_NAMES.get(number, str(number))} services: a new one is not kept "
            "by itself and may change its backend when backends change; end the sandboxes that open flows without end"
            for number in protocols
        ]
