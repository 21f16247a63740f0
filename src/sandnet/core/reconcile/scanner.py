"""Scan everything in bulk, without a lock, for candidates: objects that may differ from the records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from sandnet.core.names.host_files import HostFiles
from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox, diff_sandbox, with_limits, with_settings
from sandnet.drivers.base import Driver
from sandnet.drivers.host_network import HostNetwork
from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import NamespaceState
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Sandbox

CHUNK = 32
"""Sandboxes that one job of a worker checks: 5 to 10 ms, so that other jobs do not wait long."""


class Candidates:
    """Objects to be checked under their locks. One may only seem wrong, because an operation was changing it.

    Args:
        networks: network ids.
        sandboxes: container ids.
        rules: the rules that networks share.
        parameters: the parameters of the whole host.
        orphans: there are links made by the daemon that nothing claims.
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
        self.orphans = orphans

    def __bool__(self) -> bool:
        return bool(self.networks or self.sandboxes or self.rules or self.parameters or self.orphans)

    def add(self, others: Candidates) -> None:
        """Add other candidates."""
        self.networks |= others.networks
        self.sandboxes |= others.sandboxes
        self.rules |= others.rules
        self.parameters |= others.parameters
        self.orphans |= others.orphans

    def split(self) -> Iterator[Candidates]:
        """Yield the candidates one at a time."""
        yield from (Candidates([network]) for network in self.networks)
        yield from (Candidates((), [container]) for container in self.sandboxes)
        if self.rules:
            yield Candidates(rules=True)
        if self.parameters:
            yield Candidates(parameters=True)
        if self.orphans:
            yield Candidates(orphans=True)

    def owners(self) -> list[str]:
        """Return the values of :attr:`Drift.owner` for differences of these candidates."""
        found = [*(f"network/{one}" for one in self.networks), *(f"sandbox/{one}" for one in self.sandboxes)]
        return found + ["rules"] * self.rules + ["parameters"] * self.parameters + ["strays"] * self.orphans


class Scanner:
    """Compares the records with the state found in the kernel."""

    def __init__(
        self,
        desired: DesiredState,
        drivers: Mapping[str, Driver],
        host_files: HostFiles,
        host_network: HostNetwork,
        kernel: Kernel,
        workers: Workers,
    ) -> None:
        self.desired = desired
        self._drivers = drivers
        self._host_files = host_files
        self._host_network = host_network
        self._kernel = kernel
        self._workers = workers

    async def scan(self, pause_ratio: float = 0.0) -> Candidates:
        """Return everything that seems wrong.

        Args:
            pause_ratio: seconds of pause for each second of checking sandboxes.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return its state.
        """
        found = await self.links(pause_ratio)
        found.rules, found.parameters = await self.rules_differ(), await self.parameters_differ()
        found.sandboxes |= await self._host_files.find_changed(thorough=True)
        return found

    async def links(self, pause_ratio: float = 0.0) -> Candidates:
        """Return the bridges, pairs and sandboxes that seem wrong.

        Raises:
            Error: as :meth:`scan`.
        """
        found = Candidates()
        sandboxes, nets, claimed = self.desired.sandboxes(), self.desired.networks(), self.desired.links()
        host = await self._workers.run(self._kernel.state_reader.host)
        found.networks = {fault.object for fault in await self.network_faults(nets, host)}
        found.orphans = bool(orphaned_links(host.links.values(), (claimed | self.desired.links()).__contains__))
        found.sandboxes = await self.sandboxes(sandboxes, host, pause_ratio)
        return found

    async def sandboxes(self, sandboxes: Sequence[Sandbox], host: NamespaceState, pause_ratio: float = 0.0) -> set[str]:
        """Return the container ids of those among ``sandboxes`` whose namespace or links seem wrong."""
        found: set[str] = set()
        now = asyncio.get_running_loop().time
        for start in range(0, len(sandboxes), CHUNK):
            began = now()
            desired = [self.desired.sandbox(sandbox) for sandbox in sandboxes[start : start + CHUNK]]
            found |= await self._workers.run(self._candidates, desired, host)
            await asyncio.sleep((now() - began) * pause_ratio)
        return found

    async def network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return the faults of networks, given the links found on the host."""
        found: list[Fault] = []
        for name, driver in self._drivers.items():
            own = [net for net in nets if net.driver == name]
            found += await driver.faults(own, host) if own and not driver.unavailable() else []
        return found

    async def changed_networks(self) -> set[str]:
        """Return the ids of networks with a parameter that another process changed without a message of the kernel."""
        nets, found = self.desired.networks(), set[str]()
        for name, driver in self._drivers.items():
            own = [net for net in nets if net.driver == name]
            found.update(await driver.changed_networks(own) if own and not driver.unavailable() else [])
        return found

    async def rule_faults(self) -> list[Fault]:
        """Return the faults of the rules that networks share."""
        return await self._host_network.packet_filter.faults()

    async def parameter_faults(self) -> list[Fault]:
        """Return the faults of the parameters of the whole host."""
        return await self._host_network.parameter_faults()

    async def rules_differ(self) -> bool:
        """Return whether the rules have faults, or cannot be read.

        The check under locks then reports why they cannot, and everything else is still checked.
        """
        return await _any_fault(self.rule_faults)

    async def parameters_differ(self) -> bool:
        """Return whether the parameters have faults, or cannot be read."""
        return await _any_fault(self.parameter_faults)

    def _candidates(self, desired: Sequence[DesiredSandbox], host: NamespaceState) -> set[str]:
        inside = self._kernel.state_reader.inside([each.sandbox.key for each in desired])
        host = with_limits(host, desired, self._kernel.limits)
        settings = self._kernel.interface_settings
        pairs = [(each, with_settings(found, each, settings)) for each, found in zip(desired, inside, strict=True)]
        return {each.sandbox.container_id for each, found in pairs if any(diff_sandbox(each, host, found))}


async def _any_fault(read: Callable[[], Awaitable[Sequence[Fault]]]) -> bool:
    try:
        return bool(await read())
    except Error:
        return True
