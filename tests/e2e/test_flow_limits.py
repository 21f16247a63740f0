"""One sandbox does not fill the host's table of tracked connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.test_forged_packets import link_mac
from tests.support import ethernet as f
from tests.support.daemon import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE_ADDRESS,
    OUTSIDE_ADDRESS6,
    RefusedError,
    RunningDaemon,
    Sandbox,
)
from tests.support.network_host import eventually
from tests.support.traffic import UDP

LIMIT = 64
"""Few enough for a single counter, which does not count the flow that it was made for."""
MANY = 600
"""Flows that a sandbox begins."""


def flows(daemon: RunningDaemon, source: str) -> int:
    """How many are tracked that a source began."""
    family = "ipv6" if ":" in source else "ipv4"
    return daemon.host.sh("conntrack", "-L", "-f", family, "--orig-src", source).count("src=" + source)


def are_limited(daemon: RunningDaemon, source: str, limit: int = LIMIT) -> bool:
    """Whether a source that began many flows has as many as it may; a busy kernel handles them later."""
    eventually(lambda: flows(daemon, source) >= limit // 2)
    return flows(daemon, source) <= limit + 1


def begin(sandbox: Sandbox, address: str, count: int = MANY) -> None:
    """That many flows to different ports, from one socket."""
    with sandbox.bound("::" if ":" in address else "0.0.0.0", UDP) as socket:
        for port in range(10_000, 10_000 + count):
            socket.sendto(b"!", (address, port))


@pytest.fixture(autouse=True)
def nothing_tracked(daemon: RunningDaemon) -> Iterator[None]:
    daemon.host.sh("conntrack", "-F")
    yield
    daemon.host.sh("conntrack", "-F")


@pytest.mark.parametrize(
    "target", [OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, HOST_ADDRESS, HOST_ADDRESS6], ids=["out4", "out6", "host4", "host6"]
)
def test_max_flows_limits_a_sandbox_and_not_the_others(daemon: RunningDaemon, target: str) -> None:
    daemon.api.network("foo", ipv6=True, max_flows=LIMIT, host_access=True)
    sandbox, other = daemon.sandbox("foo", "one"), daemon.sandbox("foo", "two")
    daemon.outside.serve("far", 7000, UDP)
    begin(sandbox, target)
    assert are_limited(daemon, sandbox.address6 if ":" in target else sandbox.address)
    assert other.ask(OUTSIDE_ADDRESS, 7000, UDP).server == "far"

    def is_answered() -> bool:
        daemon.host.sh("conntrack", "-F")  # each time: a busy kernel may handle the last of these packets later
        return not sandbox.is_refused(OUTSIDE_ADDRESS, 7000, UDP)

    eventually(is_answered)
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


def test_max_flows_limits_protocols_without_ports(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", max_flows=LIMIT)
    sandbox = daemon.sandbox("foo", "one")
    target = link_mac(daemon, "foo")
    with f.raw(daemon.host, sandbox) as wire:
        for number in range(MANY):
            far = f"198.51.{100 + number // 200}.{number % 200 + 3}"
            wire.send(f.ether(target, sandbox.mac, f.IP, f.ipv4(sandbox.address, far, 200, b"")))
    assert flows(daemon, sandbox.address) <= LIMIT + 1


def test_max_flows_limits_the_network_without_anti_spoofing(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.0.0/16", max_flows=LIMIT, anti_spoofing=False)
    sandbox = daemon.sandbox("foo", "one")
    target = link_mac(daemon, "foo")
    with f.raw(daemon.host, sandbox) as wire:
        for number in range(MANY):
            source = f"10.9.{1 + number // 250}.{number % 250 + 1}"
            wire.send(f.ether(target, sandbox.mac, f.IP, f.udp(source, OUTSIDE_ADDRESS)))
    assert daemon.host.sh("conntrack", "-L").count(" src=10.9.") <= LIMIT + 1


def test_max_flows_is_unchanged_after_a_restart(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", max_flows=LIMIT)
    sandbox = daemon.sandbox("foo", "one")
    daemon.kill()
    daemon.start()
    begin(sandbox, OUTSIDE_ADDRESS)
    assert are_limited(daemon, sandbox.address)
    daemon.host.sh("nft", "delete", "table", "inet", "sandnet")
    eventually(lambda: "flows_64" in daemon.host.sh("nft", "list", "ruleset"))
    daemon.host.sh("conntrack", "-F")
    begin(sandbox, OUTSIDE_ADDRESS)
    assert are_limited(daemon, sandbox.address)


def test_flows_are_all_tracked_without_a_limit(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", max_flows=0)
    daemon.api.network("bar")
    for network in ("foo", "bar"):
        sandbox = daemon.sandbox(network, "one")
        begin(sandbox, OUTSIDE_ADDRESS)
        eventually(lambda: flows(daemon, sandbox.address) == MANY)  # noqa: B023


def test_max_flows_defaults_to_the_configuration(
    fresh_daemon: RunningDaemon,
) -> None:
    daemon = fresh_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write("max_flows = 128\n")
    daemon.start()
    daemon.api.network("foo")
    sandbox = daemon.sandbox("foo", "one")
    begin(sandbox, OUTSIDE_ADDRESS)
    assert are_limited(daemon, sandbox.address, 128)


@pytest.mark.parametrize("value", [-1, 1 << 25, "64", True, 1.5])
def test_invalid_max_flows_returns_400(daemon: RunningDaemon, value: object) -> None:
    with pytest.raises(RefusedError, match="max_flows"):
        daemon.api.network("foo", max_flows=value)


def test_full_map_of_learned_flows_is_in_health_and_doctor(daemon: RunningDaemon) -> None:
    """The rules make the same entry when a map is really full (tests/kernel/test_flow_room.py)."""
    daemon.api.network("foo")
    problem = "no room for more flows of tcp services"
    for verb in ("add", "delete"):
        daemon.host.sh("nft", verb, "element", "bridge", "sandnet", "full", "{ tcp }")
        reported = verb == "add"
        eventually(lambda: (problem in str(daemon.api.get("/healthz"))) is reported)  # noqa: B023
        assert (problem in str(daemon.api.post("/reconcile", fix=True)["drift"])) is reported
