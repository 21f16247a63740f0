"""Keeps both tables as we made them: remembers how they looked, compares, and makes them anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sandnet.drivers.base import Fault, NetworkState, StateOf
from sandnet.drivers.bridge import guard, inspection, ruleset
from sandnet.drivers.bridge.balance import BRIDGE, Service
from sandnet.drivers.bridge.balancing import Balancing
from sandnet.drivers.bridge.guard import Own
from sandnet.drivers.bridge.guarding import Guarding
from sandnet.drivers.bridge.turns import Turns
from sandnet.kernel.base import Firewall
from sandnet.kernel.facts import Listing
from sandnet.kernel.workers import Workers
from sandnet.model import Phase

TABLES: Final = (ruleset.TABLE, BRIDGE)
_LASTING: Final = (Phase.READY,)
_COMING: Final = (Phase.CREATING, Phase.READY)
Elements = dict[str, set[str]]
"""By set or map, as they are spelled in scripts."""


class _Expected(NamedTuple):
    lasting: list[NetworkState]
    """What must be in the tables."""
    anything: list[NetworkState]
    """What may be: with what comes and goes."""
    services: Sequence[Service]
    ports: Sequence[Own]


class Upkeep:
    """The tables' guardian. What they should hold is the script that a start would run."""

    def __init__(
        self, firewall: Firewall, workers: Workers, balancing: Balancing, guarding: Guarding, turns: Turns
    ) -> None:
        self._firewall = firewall
        self._workers = workers
        self._balancing = balancing
        self._guarding = guarding
        self._turns = turns
        self._frames: dict[str, str] = {}

    async def start(self, state: list[NetworkState]) -> None:
        """Put both tables in place in one transaction, and remember how they look."""
        self._guarding.start(state)
        await self._balancing.start(self._tables(state, self._guarding.ports()), state)
        await self._remember()

    async def faults(self, state: StateOf) -> list[Fault]:
        """What is wrong, but for what is being changed just now: who finds something looks again, alone."""
        touched = await self._workers.run(self._firewall.touched)
        found = await self._compare(state)
        if found:
            async with self._turns.alone():
                found = await self._compare(state)
        if touched and not found:
            await self._workers.run(self._firewall.account, touched)
        return found

    async def mend(self, state: StateOf) -> None:
        """Make both tables anew, with what is being made and without what is being removed."""
        async with self._turns.alone():
            wanted = state(_COMING)
            await self._balancing.mend(self._tables(wanted, self._guarding.ports()), wanted)
            await self._remember()

    async def _remember(self) -> None:
        """Called while nobody else of ours changes them."""
        self._frames = await self._workers.run(self._look_again)

    def _look_again(self) -> dict[str, str]:
        touched = self._firewall.touched()
        found = {table: self._firewall.listing(table) for table in TABLES}
        if touched:
            self._firewall.account(touched)
        return {table: listing.frame for table, listing in found.items() if listing}

    async def _compare(self, state: StateOf) -> list[Fault]:
        before = self._expected(state)
        found = await self._workers.run(self._listings)
        return await self._workers.run(self._differences, found, before, self._expected(state))

    def _expected(self, state: StateOf) -> _Expected:
        return _Expected(state(_LASTING), state(tuple(Phase)), self._balancing.services(), self._guarding.ports())

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
            told += inspection.table_faults(table, found[table], frame, needed, allowed)
        return told

    def _elements(self, state: list[NetworkState], known: _Expected) -> dict[str, Elements]:
        tables = self._tables(state, known.ports)
        return inspection.elements(self._balancing.script(tables, state, known.services))

    @staticmethod
    def _tables(state: Sequence[NetworkState], ports: Sequence[Own]) -> str:
        return ruleset.table(state) + guard.ruleset(ports)


def _combined(one: Elements, other: Elements, how: Callable[[set[str], set[str]], set[str]]) -> Elements:
    return {name: how(one.get(name, set()), other.get(name, set())) for name in one.keys() | other.keys()}
