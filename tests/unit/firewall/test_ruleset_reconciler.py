"""The tables' guardian, over a packet filter in memory that others write to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import ParamSpec, TypeVar

import pytest
from msgspec.structs import replace

from sandnet.errors import Error, Kind
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.balancing.service_elements import network_number
from sandnet.firewall.base import EndpointState, Fault, NetworkState
from sandnet.firewall.inet_table import TABLE
from sandnet.firewall.overlay_peers import OverlayPeers
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.firewall.ruleset_reconciler import RulesetReconciler
from sandnet.kernel.fake.common import FaultInjector
from sandnet.kernel.fake.host import FakeFirewall
from sandnet.kernel.nft_types import host_number, link_name, mac_address, padded
from sandnet.kernel.types import NO_ELEMENTS, Elements, Listing, TableStructure, Value
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Phase, Subnet
from tests.unit.firewall.balancing.test_service_elements import ENDPOINT, attachment

P = ParamSpec("P")
T = TypeVar("T")

WHERE = Subnet(
    prefix=IPv4Network("10.9.0.0/24"), host_address=IPv4Interface("10.9.0.1/24"), gateway=IPv4Address("10.9.0.1")
)
NET = Network(
    id="n", name="net", driver="bridge", phase=Phase.READY, sequence=1, created=0.0, link="snb0", ipv4=WHERE
)  # fmt: skip
BACKENDS = [replace(attachment(number), host_link=f"snv{number}") for number in (1, 2)]
SERVICE = host_number(network_number(ENDPOINT.network_id)) + bytes([10, 9, 0, 100])
STRANGE = host_number(1) + bytes([192, 0, 2, 1])
OTHER = replace(NET, id="o", name="other", link="snb1")


class _Inline(Workers):
    """Jobs run on the loop, each after everybody else has had a turn: nothing depends on threads."""

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        return job(*args, **kwargs)


class _Filter(FakeFirewall):
    """Has rules as well, all of them in a word."""

    def __init__(self) -> None:
        super().__init__(FaultInjector())
        self.frame = TableStructure("as made")
        self.changes = 0

    def change(self, removed: Elements, added: Elements, *, absent: bool = False) -> None:
        super().change(removed, added, absent=absent)
        self.changes += 1

    def listing(self, table: str) -> Listing | None:
        found = super().listing(table)
        return found and found._replace(structure=self.frame)

    def structure(self, table: str) -> TableStructure | None:
        return None if super().structure(table) is None else self.frame

    def apply(self, script: str, elements: Elements = NO_ELEMENTS) -> None:
        super().apply(script, elements)
        if f"table {TABLE} {{" in script:
            self.frame = TableStructure("as made")


class Bench:
    """An upkeep, its packet filter, and what is recorded."""

    def __init__(self) -> None:
        workers, rules, self.filter = _Inline(1), RulesetTransaction(), _Filter()
        self.rules, self.turns = rules, rules.lock
        self.balancing = LoadBalancer(self.filter, workers, rules)
        self.guarding = AntiSpoofing(self.filter, workers, rules)
        self.peers = OverlayPeers(self.filter)
        self.upkeep = RulesetReconciler(self.filter, workers, self.balancing, self.guarding, self.peers, rules)
        self.networks = [NetworkState(NET, [EndpointState(ENDPOINT, BACKENDS)])]

    def state(self, phases: Collection[Phase]) -> list[NetworkState]:
        return [each for each in self.networks if each.network.phase in phases]

    async def start(self) -> None:
        await self.upkeep.start(self.state, [])

    async def problems(self) -> list[str]:
        return [fault.problem for fault in await self.upkeep.faults()]

    def bridges(self) -> dict[bytes, Value]:
        return self.filter.tables[TABLE]["bridges"]


async def started() -> Bench:
    bench = Bench()
    await bench.start()
    return bench


async def test_tables_as_created_have_no_problems() -> None:
    bench = await started()
    assert await bench.problems() == []
    assert bench.bridges().keys() == {link_name("snb0")}
    assert bench.filter.tables[BRIDGE]["services4"] == {SERVICE: b""}


async def test_missing_and_foreign_elements_are_both_reported() -> None:
    bench = await started()
    bench.bridges().clear()
    bench.filter.tables[BRIDGE]["services4"][STRANGE] = b""
    assert await bench.problems() == [
        'element "snb0" is missing in bridges',
        "element 0x00000001 . 192.0.2.1 is in services4 and should not be",
    ]


async def test_removed_and_rewritten_tables_are_reported() -> None:
    bench = await started()
    del bench.filter.tables[BRIDGE]
    bench.filter.frame = TableStructure("rewritten")
    found: list[Fault] = await bench.upkeep.faults()
    assert [(fault.object, fault.problem) for fault in found] == [
        (TABLE, f"chains, rules or sets of table {TABLE} have been changed"),
        (BRIDGE, f"table {BRIDGE} is gone"),
    ]


async def test_repair_fixes_any_damage() -> None:
    bench = await started()
    bench.bridges().clear()
    del bench.filter.tables[BRIDGE]
    bench.filter.frame = TableStructure("rewritten")
    await bench.upkeep.repair()
    assert await bench.problems() == []
    assert bench.bridges().keys() == {link_name("snb0")}


async def test_irreparable_bridge_table_is_replaced() -> None:
    bench = await started()
    bench.filter.faults.pending["firewall.apply"] = (0, Error(Kind.CONFLICT, "another type"))
    bench.filter.tables[BRIDGE]["services4"][STRANGE] = b""
    await bench.upkeep.repair()
    assert f"delete table {BRIDGE}" in bench.filter.applied[-1]
    assert await bench.problems() == []


async def test_harmless_foreign_transactions_are_not_checked_again() -> None:
    bench = await started()
    bench.filter.foreign = 7
    assert await bench.problems() == []
    assert bench.filter.foreign == 0


async def test_harmful_foreign_transactions_count_until_repaired() -> None:
    bench = await started()
    bench.filter.foreign = 7
    bench.bridges().clear()
    assert await bench.problems()
    assert bench.filter.foreign == 7
    await bench.upkeep.repair()
    assert bench.filter.foreign == 0


async def test_rules_broken_during_creation_are_not_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = await started()
    apply, times = bench.filter.apply, [0]

    def disturbed(script: str, elements: Elements) -> None:
        apply(script, elements)
        times[0] += 1
        if times[0] == 1:
            bench.filter.frame, bench.filter.foreign = TableStructure("broken"), 7

    monkeypatch.setattr(bench.filter, "apply", disturbed)
    await bench.upkeep.repair()
    assert (times, bench.filter.frame) == ([2], TableStructure("as made"))
    bench.filter.frame = TableStructure("broken")
    assert await bench.problems()


async def test_transitional_network_is_neither_missing_nor_unexpected() -> None:
    bench = await started()
    for phase in (Phase.CREATING, Phase.REMOVING):
        bench.networks.append(NetworkState(replace(OTHER, phase=phase), []))
        assert await bench.problems() == []
        bench.bridges()[link_name("snb1")] = b""
        assert await bench.problems() == []
        del bench.bridges()[link_name("snb1")]
        del bench.networks[1]


async def test_repair_adds_network_being_created_not_one_being_removed() -> None:
    bench = await started()
    leaving = replace(OTHER, id="l", link="snb2", phase=Phase.REMOVING)
    bench.networks += [NetworkState(replace(OTHER, phase=Phase.CREATING), []), NetworkState(leaving, [])]
    await bench.upkeep.repair()
    assert bench.bridges().keys() == {link_name("snb0"), link_name("snb1")}


async def test_check_waits_for_a_running_change_and_reports_nothing() -> None:
    bench = await started()
    async with bench.turns.shared():
        bench.bridges().clear()
        looking = asyncio.create_task(bench.problems())
        await _as_far_as_it_comes(looking)
        assert not looking.done()
        bench.bridges()[link_name("snb0")] = b""
    assert await looking == []


async def test_repair_keeps_the_result_of_a_running_change() -> None:
    bench = await started()
    async with bench.turns.shared():
        repairing = asyncio.create_task(bench.upkeep.repair())
        await _as_far_as_it_comes(repairing)
        assert not repairing.done()
        bench.networks.append(NetworkState(OTHER, []))
        bench.bridges()[link_name("snb1")] = b""
    await repairing
    assert bench.bridges().keys() == {link_name("snb0"), link_name("snb1")}


async def test_repair_does_not_restore_a_backend_with_refused_removal() -> None:
    bench = await started()
    bench.filter.faults.pending["firewall.change"] = (0, Error(Kind.UNAVAILABLE, "no"))
    bench.networks = [NetworkState(NET, [EndpointState(ENDPOINT, BACKENDS[:1])])]
    with pytest.raises(Error):
        await bench.balancing.balance(ENDPOINT, BACKENDS[:1])
    await bench.upkeep.repair()
    assert not bench.filter.tables[BRIDGE].get("services4")


async def test_change_refused_by_the_filter_is_made_on_retry() -> None:
    bench = await started()
    live = bench.filter.tables[BRIDGE]["live4"]
    three = [*BACKENDS, replace(attachment(3), host_link="snv3")]
    for backends in (three, BACKENDS, BACKENDS[:1]):
        bench.filter.faults.pending["firewall.change"] = (0, Error(Kind.UNAVAILABLE, "no memory"))
        before = dict(live)
        with pytest.raises(Error):
            await bench.balancing.balance(ENDPOINT, backends)
        assert live == before
        await bench.balancing.balance(ENDPOINT, backends)
        served = backends if len(backends) > 1 else []
        assert live.keys() == {SERVICE + padded(mac_address(each.mac)) for each in served}


async def _as_far_as_it_comes(task: asyncio.Task[T]) -> None:
    for _ in range(50):  # more rounds of the loop than it needs
        await asyncio.sleep(0)
