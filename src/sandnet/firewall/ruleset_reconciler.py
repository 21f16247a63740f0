"""Keeps both tables as we made them: remembers how they looked, compares, and makes them anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from sandnet.firewall import antispoofing_rules, diff, flow_limits, inet_table
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.antispoofing_rules import Own
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.balancing.service_elements import BalancedService
from sandnet.firewall.base import Fault, NetworkState, StateOf
from sandnet.firewall.flow_limits import Counted
from sandnet.firewall.inet_table import HostState
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.types import Link, Listing
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Phase

TABLES: Final = (inet_table.TABLE, BRIDGE)
ATTEMPTS: Final = 3
"""Times to make the tables while others keep changing the ruleset."""
_READY: Final = (Phase.READY,)
_PRESENT: Final = (Phase.CREATING, Phase.READY)
Elements = dict[str, set[str]]
"""By set or map, as they are spelled in scripts."""


class _Expected(NamedTuple):
    lasting: list[NetworkState]
    """What must be in the tables."""
    anything: list[NetworkState]
    """What may be: with what comes and goes."""
    services: Sequence[BalancedService]
    ports: Sequence[Own]
    host: HostState


class RulesetReconciler:
    """The tables' guardian. What they should hold is the script that a start would run."""

    def __init__(
        self,
        firewall: Firewall,
        workers: Workers,
        balancing: LoadBalancer,
        guarding: AntiSpoofing,
        rules: RulesetTransaction,
        host: Callable[[], HostState] = HostState,
    ) -> None:
        self._firewall = firewall
        self._workers = workers
        self._balancing = balancing
        self._guarding = guarding
        self._rules = rules
        self._rules.rewrite = self._rewrite
        self._host = host
        self._limits: set[Counted] = set()
        """Those that the table has chains for."""
        self._state: StateOf = lambda _: []
        self._frames: dict[str, str] = {}
        self._repaired: list[Fault] = []

    async def start(self, state: StateOf, links: Sequence[Link]) -> None:
        """Put both tables in place in one transaction, and remember how they look."""
        self._state = state
        lasting = state(_READY)
        self._guarding.start(lasting, links)
        async with self._rules.lock.exclusive():
            await self._make(lambda: self._balancing.start(self._desired(lasting), lasting))

    async def faults(self) -> list[Fault]:
        """What is wrong, but for what is being changed just now: who finds something looks again, alone."""
        touched = await self._workers.run(self._firewall.foreign_generation)
        found = await self._compare()
        if found:
            async with self._rules.lock.exclusive():
                found = await self._compare()
        if touched and not found:
            await self._workers.run(self._firewall.acknowledge, touched)
        return found

    async def limit(self, net: Network) -> None:
        """See to it that the table has the chains that count flows as this network, which is recorded, wants it."""
        how = flow_limits.counted(net, self._host().max_flows)
        if how and how not in self._limits:
            await self.repair()

    async def forget_limits(self) -> None:
        """Take away chains that count as no network wants it any more."""
        if self._limits - inet_table.limits(self._state(_PRESENT), self._host()):
            await self.repair()

    async def repair(self) -> None:
        """Make both tables anew, with what is being made and without what is being removed."""
        async with self._rules.lock.exclusive():
            await self._repair()

    def take_repaired(self) -> list[Fault]:
        """What was wrong when a change met it and both tables were made anew for it, since the last call."""
        told, self._repaired = self._repaired, []
        return told

    async def _rewrite(self) -> None:
        """The same amid a change; called alone."""
        found = await self._compare()
        await self._repair()
        self._repaired += found

    async def _repair(self) -> None:
        wanted = self._state(_PRESENT)
        await self._make(lambda: self._balancing.repair(self._desired(wanted), wanted))

    async def _make(self, make: Callable[[], Awaitable[None]]) -> None:
        """Make both tables, and remember how they look then; called while nobody else of ours changes them.

        Made once more where others changed something meanwhile: what they broke must not be taken for how it should be.
        """
        for _ in range(ATTEMPTS):
            await self._workers.run(self._acknowledge)
            await make()
            self._frames = await self._workers.run(self._structures)
            if not await self._workers.run(self._firewall.foreign_generation):
                break

    def _acknowledge(self) -> None:
        touched = self._firewall.foreign_generation()
        if touched:
            self._firewall.acknowledge(touched)

    def _structures(self) -> dict[str, str]:
        found = {table: self._firewall.listing(table) for table in TABLES}
        return {table: listing.structure for table, listing in found.items() if listing}

    async def _compare(self) -> list[Fault]:
        before = self._expected()
        found = await self._workers.run(self._listings)
        return await self._workers.run(self._differences, found, before, self._expected())

    def _expected(self) -> _Expected:
        lasting, anything = self._state(_READY), self._state(tuple(Phase))
        return _Expected(lasting, anything, self._balancing.services(), self._guarding.ports(), self._host())

    def _listings(self) -> dict[str, Listing | None]:
        return {table: self._firewall.listing(table) for table in TABLES}

    def _differences(self, found: dict[str, Listing | None], before: _Expected, after: _Expected) -> list[Fault]:
        """An element is missing when it had to be there all the time, and strange when it never could."""
        must, still_must = (self._elements(each.lasting, each) for each in (before, after))
        may, still_may = (self._elements(each.anything, each) for each in (before, after))
        told: list[Fault] = []
        for table in TABLES:
            frame = self._frames.get(table, "")
            needed = _combined(must.get(table, {}), still_must.get(table, {}), set.intersection)
            allowed = _combined(may.get(table, {}), still_may.get(table, {}), set.union)
            told += diff.table_faults(table, found[table], frame, needed, allowed)
        return told

    def _elements(self, state: list[NetworkState], known: _Expected) -> dict[str, Elements]:
        tables = _tables(state, known.ports, known.host)
        return diff.elements(self._balancing.script(tables, state, known.services))

    def _desired(self, state: Sequence[NetworkState]) -> str:
        host = self._host()
        self._limits = inet_table.limits(state, host)
        return _tables(state, self._guarding.ports(), host)


def _tables(state: Sequence[NetworkState], ports: Sequence[Own], host: HostState) -> str:
    return inet_table.table(state, host) + antispoofing_rules.ruleset(ports)


def _combined(one: Elements, other: Elements, how: Callable[[set[str], set[str]], set[str]]) -> Elements:
    return {name: how(one.get(name, set()), other.get(name, set())) for name in one.keys() | other.keys()}
