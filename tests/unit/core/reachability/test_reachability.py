"""What follows from checks of other hosts: for the answer to a request, and for health."""

from __future__ import annotations

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandnet.core.cluster.shared_values import HostRecord
from sandnet.core.reachability.path_check import PathCheck, PathState
from sandnet.core.reachability.probe_exchange import ProbeExchange
from sandnet.core.reachability.reachability import Reachability
from sandnet.kernel.vxlan.base import Underlay
from sandnet.model import NetworkOptions

OWN, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
HOSTS = [HostRecord(name="h1", underlay=OWN), HostRecord(name="h2", underlay=OTHER)]


def network(mtu: int, *, encrypted: bool = False) -> Any:
    return SimpleNamespace(mtu=mtu, vni=1, options=NetworkOptions(encrypted=encrypted))


@pytest.fixture
def networks() -> list[Any]:
    """The overlay networks of the host; a test may replace them."""
    return [network(1450)]


@pytest.fixture
def reachability(monkeypatch: pytest.MonkeyPatch, networks: list[Any]) -> Reachability:
    """Of the host h1 with overlay networks, beside h2; no packet is sent."""

    async def ensure(exchange: ProbeExchange, local: IPv4Address) -> None:
        exchange._local = local

    async def underlay() -> Underlay:
        return Underlay(OWN, "up0", 1500)

    async def no_receiver(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(ProbeExchange, "ensure", ensure)
    view = SimpleNamespace(hosts=lambda: HOSTS, host=lambda _: HOSTS[1], alive=lambda _: "lease")
    exchange = ProbeExchange("h1", lambda: HOSTS, no_receiver, 4789)
    return Reachability("h1", cast("Any", view), exchange, underlay, lambda: networks)


def finds(monkeypatch: pytest.MonkeyPatch, state: PathState) -> None:
    """Let checks find a state."""

    async def run(_: PathCheck) -> PathState:
        return state

    monkeypatch.setattr(PathCheck, "run", run)


async def test_clock_that_differs_is_reported_but_no_matter_of_health(
    reachability: Reachability, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, PathState("answered", echo=True, round_trip=0.001, path_mtu=1500, clock=-3600.0))
    for _ in range(3):
        (found,) = await reachability.check()
    assert found.problems == ("its clock is 3600.0 s behind: nothing in sandnet compares clocks, but logs do",)
    assert reachability.problems == []


async def test_path_that_is_too_small_twice_is_a_matter_of_health(
    reachability: Reachability, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, PathState("answered", echo=True, round_trip=0.001, path_mtu=1400, clock=0.0))
    await reachability.check()
    assert reachability.problems == []
    await reachability.check()
    (problem,) = reachability.problems
    assert problem.startswith("host h2: packets of 1400 bytes pass, and overlay networks send 1500: ")
    assert problem.endswith("mtu=1350")
    assert reachability.smallest_path() == 1400


async def test_encrypted_network_needs_packets_with_its_own_overhead(
    reachability: Reachability, networks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, PathState("answered", echo=True, round_trip=0.001, path_mtu=1460, clock=0.0))
    networks[:] = [network(1350, encrypted=True), network(1300)]
    (found,) = await reachability.check()
    assert found.needed == 1350 + 60 + 70
    (problem,) = found.problems
    assert problem.endswith("mtu=1330")
