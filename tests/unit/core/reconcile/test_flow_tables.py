"""A nearly full table of tracked connections is reported of."""

from __future__ import annotations

import asyncio

import pytest

from sandnet.core.reconcile.drift import REPAIRED
from sandnet.core.reconcile.flow_tables import COUNT, MOST, FlowTable, ServiceFlows
from sandnet.firewall.balancing.flow_learning import FULL
from sandnet.firewall.ruleset.elements import BRIDGE
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers


@pytest.mark.parametrize(
    ("count", "most", "alarming"),
    [("79", "100", False), ("80", "100", True), ("100", "100", True), ("0", "0", False), (None, None, False)],
)
def test_conntrack_table_is_reported_from_80_percent(count: str | None, most: str | None, *, alarming: bool) -> None:
    kernel, workers = FakeKernel(), Workers(1)
    kernel.sysctl.values |= {name: value for name, value in ((COUNT, count), (MOST, most)) if value is not None}
    table = FlowTable(kernel.sysctl, workers)
    asyncio.run(table.check())
    workers.close()
    assert bool(table.problems) is alarming
    assert all(f"{count} of at most {most}" in problem for problem in table.problems)


def test_full_learned_flow_map_is_reported_until_there_is_room() -> None:
    kernel, workers = FakeKernel(), Workers(1)
    flows = ServiceFlows(kernel.firewall, workers)
    kernel.firewall.tables[BRIDGE] = {FULL: {b"\x11": b""}}
    asyncio.run(flows.check())
    assert len(flows.problems) == 1
    assert "udp services" in flows.problems[0]
    (drift,) = asyncio.run(flows.drift())
    assert drift.problem == "no room for more flows of udp services"
    assert drift.done != REPAIRED
    kernel.firewall.tables[BRIDGE] = {FULL: {}}
    for _ in range(ServiceFlows.EVERY):
        asyncio.run(flows.check())
    workers.close()
    assert flows.problems == []
