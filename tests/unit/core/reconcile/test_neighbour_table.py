"""A full table of neighbours is reported while it is full."""

from __future__ import annotations

import asyncio

from sandnet.core.reconcile.neighbour_table import HOLD, NeighbourTable
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers


def test_full_neighbour_table_is_reported_for_a_minute() -> None:
    kernel, workers, now = FakeKernel(), Workers(1), [100.0]
    table = NeighbourTable(kernel.state_reader, workers, lambda: now[0])
    kernel.state_reader.overflows = {4: 7, 6: 0}
    asyncio.run(table.check())
    assert table.problems == []  # it may have been long ago
    kernel.state_reader.overflows = {4: 8, 6: 0}
    asyncio.run(table.check())
    assert len(table.problems) == 1
    assert "net.ipv4.neigh.default.gc_thresh3" in table.problems[0]
    now[0] += HOLD
    asyncio.run(table.check())
    workers.close()
    assert table.problems == []
