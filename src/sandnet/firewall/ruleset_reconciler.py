"""Reconciliation of both tables: it records their structure, compares the kernel with it, and rewrites them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sandnet.firewall import antispoofing_rules, diff, flow_limits, inet_table, overlay_rules
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.balancing.service_elements import BalancedService
from sandnet.firewall.balancing.service_rules import router
from sandnet.firewall.base import Fault, NetworkState, StateOf
from sandnet.firewall.flow_limits import Counted
from sandnet.firewall.inet_table import HostState
from sandnet.firewall.overlay_peers import OverlayPeers
from sandnet.firewall.ruleset.elements import BRIDGE, ElementMap, by_set, merge
from sandnet.firewall.ruleset.tables import removals
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.nft_types import declared_sets
from sandnet.kernel.types import Link, Listing, TableStructure
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Phase

TABLES: Final = (inet_table.TABLE, BRIDGE)
ATTEMPTS: Final = 3
"""Attempts to make the tables while other programs keep changing the ruleset."""
_READY: Final = (Phase.READY,)
_PRESENT: Final = (Phase.CREATING, Phase.READY)


class _Expected(NamedTuple):
    required: list[NetworkState]
    """The networks whose elements must be in the tables."""
    possible: list[NetworkState]
    """The networks whose elements may be in them, including those being added or removed."""
    services: Sequence[BalancedService]
    ports: ElementMap
    host: HostState


class RulesetReconciler:
    """Reconciler of the tables. Their desired content is the script that a start would apply."""

    def __init__(
        self,
        firewall: Firewall,
        workers: Workers,
        balancer: LoadBalancer,
        antispoofing: AntiSpoofing,
        peers: OverlayPeers,
        rules: RulesetTransaction,
        host: Callable[[], HostState] = HostState,
    ) -> None:
        self._firewall = firewall
        self._workers = workers
        self._balancer = balancer
        self._antispoofing = antispoofing
        self._peers = peers
        self._rules = rules
        self._rules.rewrite = self._rewrite
        self._host = host
        self._limits: set[Counted] = set()
        """The limits for which the table has chains."""
        self._state: StateOf = lambda _: []
        self._recorded: dict[str, TableStructure] = {}
        self._repaired: list[Fault] = []

    async def start(self, state: StateOf, links: Sequence[Link]) -> None:
        """Put both tables in place in one transaction, and record their structure."""
        self._state = state
        required = state(_READY)
        self._antispoofing.start(required, links)
        if any(each.network.vni for each in required):
            self._peers.adopt((each.network for each in required), await self._workers.run(self._listings))
        async with self._rules.lock.exclusive():
            await self._balancer.load(required)
            await self._make(required)

    async def faults(self) -> list[Fault]:
        """Return the differences, except changes in progress: a difference is verified with the lock held alone."""
        touched = await self._workers.run(self._firewall.foreign_generation)
        found = await self._compare()
        if found:
            async with self._rules.lock.exclusive():
                found = await self._compare()
        if touched and not found:
            await self._workers.run(self._firewall.acknowledge, touched)
        return found

    async def limit(self, net: Network) -> None:
        """Add the chains that count flows as this network requests, if the table has none; the network is recorded."""
        how = flow_limits.counted(net, self._host().max_flows)
        if how and how not in self._limits:
            await self.repair()

    async def forget_limits(self) -> None:
        """Remove chains that no network needs any more."""
        if self._limits - inet_table.limits(self._state(_PRESENT), self._host()):
            await self.repair()

    async def repair(self) -> None:
        """Rewrite both tables, with the networks being created and without those being removed."""
        async with self._rules.lock.exclusive():
            await self._repair()

    def take_repaired(self) -> list[Fault]:
        """Return the faults since the last call that a change met, and for which both tables were rewritten."""
        repaired, self._repaired = self._repaired, []
        return repaired

    async def _rewrite(self) -> None:
        """Repair both tables for a change that failed, and record the faults; called with the lock held alone."""
        found = await self._compare()
        await self._repair()
        self._repaired += found

    async def _repair(self) -> None:
        await self._make(self._state(_PRESENT))

    async def _make(self, state: Sequence[NetworkState]) -> None:
        """Write both tables, and record their structure then.

        Called while no other caller in this process changes them. Repeated if another program changed something during
        it: what it broke must not be recorded as the desired structure.
        """
        for _ in range(ATTEMPTS):
            await self._workers.run(self._acknowledge)
            await self._write(state)
            self._recorded = await self._workers.run(self._structures)
            if not await self._workers.run(self._firewall.foreign_generation):
                break

    def _acknowledge(self) -> None:
        touched = self._firewall.foreign_generation()
        if touched:
            self._firewall.acknowledge(touched)

    def _structures(self) -> dict[str, TableStructure]:
        found = {table: self._firewall.structure(table) for table in TABLES}
        return {table: structure for table, structure in found.items() if structure is not None}

    async def _compare(self) -> list[Fault]:
        before = self._expected()
        found = await self._workers.run(self._listings)
        return await self._workers.run(self._differences, found, before, self._expected())

    def _expected(self) -> _Expected:
        required, possible = self._state(_READY), self._state(tuple(Phase))
        return _Expected(required, possible, self._balancer.services(), self._ports(), self._host())

    def _ports(self) -> ElementMap:
        """Return the elements of ports, and of attachments on other hosts."""
        found = self._antispoofing.elements()
        merge(found, by_set(self._peers.elements()))
        return found

    def _listings(self) -> dict[str, Listing | None]:
        return {table: self._firewall.listing(table) for table in TABLES}

    def _differences(self, found: dict[str, Listing | None], before: _Expected, after: _Expected) -> list[Fault]:
        """Return an element as missing if it was needed all the time, and as unexpected if it was never allowed."""
        needed, allowed = self._wanted(before)
        later = (needed, allowed) if before == after else self._wanted(after)
        script = self._balancer.script(_script(before.required, before.host))
        faults: list[Fault] = []
        for table in TABLES:
            wanted = diff.Wanted(self._recorded.get(table), (needed, later[0]), (allowed, later[1]))
            faults += diff.table_faults(table, found[table], wanted, declared_sets(script))
        return faults

    def _wanted(self, known: _Expected) -> tuple[ElementMap, ElementMap]:
        """Return the elements that must be in the tables, and those that may be in them."""
        needed = self._elements(known.required, known)
        return needed, needed if known.required == known.possible else self._elements(known.possible, known)

    def _elements(self, state: Sequence[NetworkState], known: _Expected) -> ElementMap:
        return self._balancer.elements(_elements(state, known.ports, known.host), known.services)

    async def _write(self, state: Sequence[NetworkState]) -> None:
        host = self._host()
        self._limits = inet_table.limits(state, host)
        script = self._balancer.script(_script(state, host))
        present = await self._workers.run(self._structures)
        removed = "".join(removals(table, structure, script) for table, structure in present.items())
        await self._balancer.write(script, removed, _elements(state, self._ports(), host))


def _script(state: Sequence[NetworkState], host: HostState) -> str:
    return inet_table.table(state, host) + antispoofing_rules.ruleset()


def _elements(state: Sequence[NetworkState], ports: ElementMap, host: HostState) -> ElementMap:
    found = by_set(inet_table.elements(state, host))
    merge(found, by_set(element for each in state for element in router(each.network)))
    merge(found, by_set(element for each in state for element in overlay_rules.network_elements(each.network)))
    merge(found, ports)
    return found
