"""Flows to backends that are gone, forgotten together and in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from sandnet.errors import Error, Kind
from sandnet.firewall.ruleset.conntrack_cleanup import ConntrackCleanup
from sandnet.kernel.fake.common import FaultInjector
from sandnet.kernel.fake.host import FakeFirewall
from sandnet.kernel.workers import Workers

ONE, TWO, THREE = (ip_address(f"10.0.0.{number}") for number in (1, 2, 3))


class _Counting(FakeFirewall):
    """Notes each walk, and fails as often as it is reported to."""

    def __init__(self) -> None:
        super().__init__(FaultInjector())
        self.walks: list[set[Any]] = []
        self.failures = 0

    def forget_flows(self, *, addresses: Any = (), bound: Any = (), live: Any = ()) -> None:
        self.walks.append(set(addresses))
        if self.failures:
            self.failures -= 1
            raise Error(Kind.UNAVAILABLE, "no")


def _run(steps: Callable[[ConntrackCleanup, _Counting], Any]) -> _Counting:
    firewall, workers = _Counting(), Workers(1)
    asyncio.run(steps(ConntrackCleanup(firewall, workers, pause=0.01), firewall))
    workers.close()
    return firewall


def test_several_addresses_are_cleared_in_one_walk() -> None:
    async def steps(forgetting: ConntrackCleanup, _: _Counting) -> None:
        forgetting.add([ONE])
        forgetting.add([TWO])
        await forgetting.wait([ONE, THREE])

    assert _run(steps).walks == [{ONE, TWO}]


def test_wait_for_an_address_not_pending_returns_at_once() -> None:
    async def steps(forgetting: ConntrackCleanup, firewall: _Counting) -> None:
        await forgetting.wait([ONE])
        forgetting.add([])
        forgetting.add([TWO])
        await forgetting.wait([ONE])
        assert not firewall.walks
        await forgetting.wait([TWO])

    assert _run(steps).walks == [{TWO}]


def test_failed_walk_does_not_stop_later_ones() -> None:
    async def steps(forgetting: ConntrackCleanup, firewall: _Counting) -> None:
        firewall.failures = 1
        forgetting.add([ONE])
        await forgetting.wait([ONE])
        forgetting.add([TWO])
        await forgetting.wait([TWO])

    assert _run(steps).walks == [{ONE}, {TWO}]
