"""Changes that are planned on the event loop and applied by the caller."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.errors import Error, Kind
from sandnet.firewall.filter_changes import planning
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.firewall.ruleset.planned_change import NO_CHANGE
from tests.unit.firewall.balancing.test_service_elements import ENDPOINT
from tests.unit.firewall.test_ruleset_reconciler import BACKENDS, NET, Bench, started


def sources(bench: Bench) -> int:
    return len(bench.filter.tables[BRIDGE].get("sources4", ()))


async def test_planned_changes_reach_the_kernel_when_applied() -> None:
    bench = await started()
    before = sources(bench)
    async with planning(bench.filter, bench.rules, bench.guarding, bench.balancing, bench.peers, 0) as changes:
        removal = changes.port_removals([BACKENDS[1].host_link])
        balance = changes.balance_changes(ENDPOINT, BACKENDS[:1])
        assert sources(bench) == before
        assert bench.filter.tables[BRIDGE]["services4"]
        changes_before = bench.filter.changes
        await asyncio.to_thread(removal.apply, balance)
        await asyncio.to_thread(balance.apply)  # nothing more
        assert bench.filter.changes == changes_before + 1
    assert sources(bench) < before
    assert not bench.filter.tables[BRIDGE]["services4"]
    bench.networks = [bench.networks[0]._replace(endpoints=[])]
    async with planning(bench.filter, bench.rules, bench.guarding, bench.balancing, bench.peers, 0) as changes:
        assert changes.port_removals([BACKENDS[1].host_link]) is NO_CHANGE
        assert changes.balance_changes(ENDPOINT, BACKENDS[:1]) is NO_CHANGE


@pytest.mark.parametrize("fails", [True, False])
async def test_changes_that_were_not_applied_are_planned_again(fails: bool) -> None:
    bench = await started()
    before = sources(bench)
    heir = BACKENDS[0]

    async def planned() -> None:
        async with planning(bench.filter, bench.rules, bench.guarding, bench.balancing, bench.peers, 0) as changes:
            changes.balance_changes(ENDPOINT, BACKENDS[:1])
            changes.port_removals([heir.host_link]).apply()
            changes.port_changes(NET, ENDPOINT, heir)
            if fails:
                raise Error(Kind.INTERNAL, "the job fails before it applies them")

    if fails:
        with pytest.raises(Error):
            await planned()
    else:
        await planned()
    assert sources(bench) < before
    async with planning(bench.filter, bench.rules, bench.guarding, bench.balancing, bench.peers, 0) as changes:
        changes.port_changes(NET, ENDPOINT, heir).apply()
        changes.balance_changes(ENDPOINT, BACKENDS[:1]).apply()
    assert sources(bench) == before
    assert not bench.filter.tables[BRIDGE]["services4"]


async def test_removed_tables_are_rewritten_with_the_planned_changes() -> None:
    bench = await started()
    async with planning(bench.filter, bench.rules, bench.guarding, bench.balancing, bench.peers, 0) as changes:
        balance = changes.balance_changes(ENDPOINT, BACKENDS[:1])
        port = changes.port_removals([BACKENDS[1].host_link])
        bench.filter.tables.clear()
        port.apply()
        balance.apply()
        pytest.fail("the block ends where the tables are missing")
    assert await bench.problems() == []
    assert sources(bench) == 1
    assert not bench.filter.tables[BRIDGE].get("services4")
