"""Looks at everything in bulk, without a lock, for what may be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox, diff_sandbox
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.types import NamespaceState
from sandnet.model import Network, Sandbox

CHUNK = 32
"""Sandboxes that are looked at in one job of a worker: 5 to 10 ms, so that others get their turn."""


class Candidates:
    """What is to be looked at closely: a thing may only seem wrong, because it was being changed.

    Args:
        networks: their ids.
        sandboxes: their container ids.
        rules: those that networks share.
        parameters: those of the whole host.
        strays: there are links of ours that nobody claims.
    """

    def __init__(
        self,
        networks: Iterable[str] = (),
        sandboxes: Iterable[str] = (),
        *,
        rules: bool = False,
        parameters: bool = False,
        orphans: bool = False,
    ) -> None:
        self.networks = set(networks)
        self.sandboxes = set(sandboxes)
        self.rules = rules
        self.parameters = parameters
        self.strays = orphans

    def __bool__(self) -> bool:
        return bool(self.networks or self.sandboxes or self.rules or self.parameters or self.strays)

    def add(self, others: Candidates) -> None:
        """These, too."""
        self.networks |= others.networks
        self.sandboxes |= others.sandboxes
        self.rules |= others.rules
        self.parameters |= others.parameters
        self.strays |= others.strays

    def apart(self) -> Iterator[Candidates]:
        """One at a time."""
        yield from (Candidates([network]) for network in self.networks)
        yield from (Candidates((), [container]) for container in self.sandboxes)
        if self.rules:
            yield Candidates(rules=True)
        if self.parameters:
            yield Candidates(parameters=True)
        if self.strays:
            yield Candidates(orphans=True)

    def owners(self) -> list[str]:
        """What :attr:`Drift.owner` is of what is found with them."""
        found = [*(f"network/{one}" for one in self.networks), *(f"sandbox/{one}" for one in self.sandboxes)]
        return found + ["rules"] * self.rules + ["parameters"] * self.parameters + ["strays"] * self.strays


class Scanner:
    """Compares records with what is found."""

    def __init__(self, context: Context, desired: DesiredState) -> None:
        self._context = context
        self._desired = desired

    async def scan(self, rest: float = 0.0) -> Candidates:
        """Whatever seems wrong.

        Args:
            rest: seconds of rest for each second of looking at sandboxes.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell.
        """
        found = await self.links(rest)
        found.rules, found.parameters = await self.rules_differ(), await self.parameters_differ()
        found.sandboxes |= await self._context.host_files.find_changed(thorough=True)
        return found

    async def links(self, rest: float = 0.0) -> Candidates:
        """Bridges, pairs and what is inside sandboxes.

        Raises:
            Error: as :meth:`everything`.
        """
        found = Candidates()
        sandboxes, nets, claimed = self._desired.sandboxes(), self._desired.networks(), self._desired.links()
        host = await self._context.workers.run(self._context.kernel.survey.host)
        found.networks = {fault.object for fault in await self.network_faults(nets, host)}
        found.strays = bool(orphaned_links(host, claimed | self._desired.links()))
        found.sandboxes = await self.sandboxes(sandboxes, host, rest)
        return found

    async def sandboxes(self, sandboxes: Sequence[Sandbox], host: NamespaceState, rest: float = 0.0) -> set[str]:
        """Container ids of those among ``boxes`` whose namespace or links seem wrong."""
        found: set[str] = set()
        now = asyncio.get_running_loop().time
        for start in range(0, len(sandboxes), CHUNK):
            began = now()
            wanted = [self._desired.sandbox(sandbox) for sandbox in sandboxes[start : start + CHUNK]]
            found |= await self._context.workers.run(self._candidates, wanted, host)
            await asyncio.sleep((now() - began) * rest)
        return found

    async def network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """What is wrong with networks, given what was found of their links."""
        found: list[Fault] = []
        for name, driver in self._context.drivers.items():
            own = [net for net in nets if net.driver == name]
            found += await driver.faults(own, host) if own and not driver.unavailable() else []
        return found

    async def changed_networks(self) -> set[str]:
        """Ids of networks with a parameter that others changed without a message of the kernel."""
        nets, found = self._desired.networks(), set[str]()
        for name, driver in self._context.drivers.items():
            own = [net for net in nets if net.driver == name]
            found.update(await driver.changed_networks(own) if own and not driver.unavailable() else [])
        return found

    async def rule_faults(self) -> list[Fault]:
        """What is wrong with the rules that networks share."""
        return await self._context.host_network.packet_filter.faults()

    async def parameter_faults(self) -> list[Fault]:
        """What is wrong with the parameters of the whole host."""
        return await self._context.host_network.parameter_faults()

    async def rules_differ(self) -> bool:
        """Whether there are faults, or it cannot be found out: who looks closely then tells why, and all else is looked
        at."""
        return await _found_any(self.rule_faults)

    async def parameters_differ(self) -> bool:
        """Likewise."""
        return await _found_any(self.parameter_faults)

    def _candidates(self, wanted: Sequence[DesiredSandbox], host: NamespaceState) -> set[str]:
        inside = self._context.kernel.survey.inside([each.sandbox.key for each in wanted])
        pairs = zip(wanted, inside, strict=True)
        return {each.sandbox.container_id for each, found in pairs if any(diff_sandbox(each, host, found))}


async def _found_any(look: Callable[[], Awaitable[Sequence[Fault]]]) -> bool:
    try:
        return bool(await look())
    except Error:
        return True
