"""Limits of traffic: rates that arrive, in both directions, and what becomes of the limits."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

import pytest

from sandnet.model.link_names import shaper_name
from tests.support.cni import Runtime
from tests.support.daemon import JSON, RefusedError, RunningDaemon, Sandbox
from tests.support.network_host import eventually
from tests.support.privileges import needs_taps
from tests.support.rates import SECONDS, SETTLING, WINDOWS, Flow, measured
from tests.support.taps import open_tap
from tests.support.traffic import TCP, UDP

MBIT = 1_000_000
TOLERANCE = 0.05
EXACT = pytest.approx(1, abs=TOLERANCE)
TAP_HEADER = 10
"""Bytes of ``struct virtio_net_hdr``."""
OWN_TYPE = b"\x88\xb5"
"""EtherType for experiments (IEEE 802)."""
WITHIN = 20.0
"""Seconds in which a repair is done even on a busy machine; the next comparison of everything takes longer to come."""
LIMITS = {"ingress_rate": 20 * MBIT, "egress_rate": 10 * MBIT}


BUCKETS = [("egress", 10 * MBIT), ("ingress", 20 * MBIT)]
"""The token buckets of one container with these limits."""


def limits(daemon: RunningDaemon) -> list[tuple[str, int]]:
    """The token buckets of the host: direction, and bits per second."""
    found = json.loads(daemon.host.sh("tc", "-j", "qdisc", "show"))
    directions = {"snv": "ingress", "sni": "egress"}
    buckets = [each for each in found if each["kind"] == "tbf"]
    return sorted((directions[each["dev"][:3]], each["options"]["rate"] * 8) for each in buckets)


def leftovers(daemon: RunningDaemon) -> list[str]:
    """The devices that delay what sandboxes send."""
    return [name for name in daemon.links() if name.startswith("sni")]


@pytest.fixture
def pair(daemon: RunningDaemon) -> tuple[Sandbox, Sandbox]:
    """A limited container and its neighbour, which is not."""
    daemon.api.network("foo", subnet="10.9.1.0/24")
    return daemon.sandbox("foo", "web", bandwidth=LIMITS), daemon.sandbox("foo", "db")


@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_rates_hold(pair: tuple[Sandbox, Sandbox], direction: str, proto: int) -> None:
    web, db = pair
    source, target = (db, web) if direction == "ingress" else (web, db)
    limit = LIMITS[f"{direction}_rate"]
    rate = measured(Flow(source, target, target.address, limit, proto), TOLERANCE)
    assert rate / limit == EXACT


def test_rate_changes_while_traffic_flows(daemon: RunningDaemon, pair: tuple[Sandbox, Sandbox]) -> None:
    web, db = pair
    flow = Flow(db, web, web.address, 30 * MBIT, TCP)
    daemon.api.patch("/services/web", bandwidth={"ingress_rate": 30 * MBIT, "egress_rate": 40 * MBIT})
    rate = measured(flow, TOLERANCE)
    assert rate / (30 * MBIT) == EXACT
    assert limits(daemon) == [("egress", 40 * MBIT), ("ingress", 30 * MBIT)]
    assert daemon.api.get("/services/web", verbose="true")["bandwidth"]["ingress_rate"] == 30 * MBIT
    daemon.cli("service", "limit", "--ingress-rate", "5mbit", "web.foo")
    assert limits(daemon) == [("ingress", 5 * MBIT)]
    assert leftovers(daemon) == []
    daemon.api.patch("/networks/foo/endpoints/web", bandwidth={})
    assert limits(daemon) == []


def test_network_limits_endpoints_without_limits_of_their_own(daemon: RunningDaemon) -> None:
    daemon.cli("network", "create", "-o", f"ingress_rate={8 * MBIT}", "-o", f"egress_rate={6 * MBIT}", "foo")
    daemon.sandbox("foo", "web")
    daemon.sandbox("foo", "db", bandwidth={"ingress_rate": 9 * MBIT})
    expected = [("egress", 6 * MBIT)] * 2 + [("ingress", 8 * MBIT), ("ingress", 9 * MBIT)]
    assert limits(daemon) == expected
    daemon.api.patch("/networks/foo", options={"ingress_rate": 0, "egress_rate": 7 * MBIT})
    assert limits(daemon) == [("egress", 7 * MBIT)] * 2 + [("ingress", 9 * MBIT)]
    daemon.api.patch("/networks/foo", options={"egress_rate": 0})
    assert limits(daemon) == [("ingress", 9 * MBIT)]


class Machine:
    """A virtual machine's end of a tap, which counts the frames that it receives, and sends others."""

    def __init__(self, daemon: RunningDaemon, tap: JSON) -> None:
        self._descriptor = daemon.host.run(open_tap, str(tap["device"]))
        self.received = 0

    def receive(self) -> None:
        """Count the frames that wait."""
        with suppress(BlockingIOError):
            while True:
                self.received += len(os.read(self._descriptor, 1 << 16)) - TAP_HEADER

    def send(self, frame: bytes) -> None:
        with suppress(BlockingIOError):
            os.write(self._descriptor, bytes(TAP_HEADER) + frame)

    def close(self) -> None:
        os.close(self._descriptor)


@needs_taps
def test_rates_of_a_tap_hold(daemon: RunningDaemon) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24", anti_spoofing=False)
    db = daemon.sandbox("foo", "db")
    daemon.api.endpoint("foo", "vm", address="10.9.1.99", bandwidth=LIMITS)
    path = "/networks/foo/endpoints/vm/containers"
    tap = daemon.api.post(path, container_id="vm-1", type="tap")
    machine = Machine(daemon, tap)
    frame = bytes.fromhex((db.mac + tap["mac"]).replace(":", "")) + OWN_TYPE + bytes(1400)
    db.sh("ip", "neigh", "replace", "10.9.1.99", "lladdr", tap["mac"], "dev", "eth0")
    sender = db.bound("0.0.0.0", UDP)
    sender.connect(("10.9.1.99", 9))

    def arrived() -> int:
        return int(db.sh("cat", "/proc/net/dev").partition("eth0:")[2].split()[0])

    def exchanged(seconds: float) -> tuple[float, float]:
        """Send twice the limits in both directions; the bits of layer 2 that arrive in a second."""
        before, first = machine.received, arrived()
        began, sent, flooded = time.monotonic(), 0, 0
        while (now := time.monotonic() - began) < seconds:
            while sent < now * LIMITS["egress_rate"] / 4:
                machine.send(frame)
                sent += len(frame)
            while flooded < now * LIMITS["ingress_rate"] / 4:
                with suppress(OSError):
                    sender.send(bytes(1400))
                flooded += 1400
            machine.receive()
            time.sleep(0.002)
        took = time.monotonic() - began
        return (machine.received - before) * 8 / took, (arrived() - first) * 8 / took

    exchanged(SETTLING)
    for _ in range(WINDOWS):
        ingress, egress = exchanged(SECONDS)
        if ingress >= LIMITS["ingress_rate"] * (1 - TOLERANCE) and egress >= LIMITS["egress_rate"] * (1 - TOLERANCE):
            break
    machine.close()
    assert ingress / LIMITS["ingress_rate"] == EXACT
    assert egress / LIMITS["egress_rate"] == EXACT
    daemon.api.leave("foo", "vm", "vm-1")
    eventually(lambda: leftovers(daemon) == [])


# What becomes of the limits.


@pytest.mark.parametrize("ending", ["leave", "kill"])
def test_limits_go_with_the_container(daemon: RunningDaemon, ending: str) -> None:
    daemon.api.network("foo")
    web = daemon.sandbox("foo", "web", bandwidth=LIMITS)
    if ending == "kill":
        daemon.kill()
        daemon.start()
        assert limits(daemon) == BUCKETS
    daemon.api.leave("foo", "web", web.container)
    eventually(lambda: (limits(daemon), leftovers(daemon)) == ([], []))
    daemon.attach("foo", "web", "again")
    assert limits(daemon) == BUCKETS


def test_limits_of_a_killed_daemon_are_made_at_its_start(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.sandbox("foo", "web", bandwidth=LIMITS)
    port = port_of(daemon)
    daemon.kill()
    harm(daemon, "both", port)
    daemon.start()
    assert limits(daemon) == BUCKETS
    assert daemon.api.post("/reconcile", fix=False)["drift"] == []


HARMS = {
    "ingress": ("tc qdisc del dev {port} root",),
    "rate": ("tc qdisc change dev {port} root tbf rate 1gbit burst 1mb limit 1mb",),
    "egress": ("tc qdisc del dev {port} ingress",),
    "filter": ("tc filter del dev {port} ingress",),
    "device": ("ip link del {device}",),
    "down": ("ip link set {device} down",),
    "both": ("tc qdisc del dev {port} root", "ip link del {device}"),
}


def port_of(daemon: RunningDaemon) -> str:
    """The host's end of the only container's pair."""
    (port,) = (name for name in daemon.links() if name.startswith("snv"))
    return port


def harm(daemon: RunningDaemon, how: str, port: str) -> None:
    for command in HARMS[how]:
        daemon.host.sh(*command.format(port=port, device=shaper_name(port)).split())


@pytest.mark.parametrize("how", HARMS)
def test_harmed_limits_are_repaired(daemon: RunningDaemon, how: str) -> None:
    daemon.api.network("foo", subnet="10.9.1.0/24")
    web = daemon.sandbox("foo", "web", bandwidth=LIMITS)
    harm(daemon, how, port_of(daemon))
    eventually(lambda: limits(daemon) == BUCKETS and daemon.api.post("/reconcile", fix=False)["drift"] == [], WITHIN)
    assert daemon.here.reaches(web.address)


def test_limits_that_another_program_adds_are_lifted(daemon: RunningDaemon) -> None:
    daemon.api.network("foo")
    daemon.sandbox("foo", "web")
    daemon.host.sh(*f"tc qdisc add dev {port_of(daemon)} root tbf rate 1mbit burst 10kb limit 10kb".split())
    eventually(lambda: limits(daemon) == [], WITHIN)


# How they are requested.


def test_runtime_requests_limits_by_its_capability(daemon: RunningDaemon) -> None:
    theirs = daemon.host.container()
    runtime = Runtime(daemon)
    rates = {"ingressRate": 20 * MBIT, "ingressBurst": MBIT, "egressRate": 10 * MBIT, "egressBurst": MBIT}
    runtime.add("c1", theirs.path, runtimeConfig={"bandwidth": rates})
    assert limits(daemon) == BUCKETS
    (service,) = daemon.api.get("/services", verbose="true")
    assert service["bandwidth"] == {**LIMITS, "ingress_burst": MBIT, "egress_burst": MBIT}
    runtime.delete("c1", theirs.path)
    eventually(lambda: (limits(daemon), leftovers(daemon)) == ([], []))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ingress_rate": 1},
        {"ingress_rate": -1},
        {"egress_rate": 10**13},
        {"egress_burst": 10**6},
        {"ingress_rate": MBIT, "ingress_burst": 2**40},
        {"ingress_rate": "1mbit"},
        {"ingress_rate": 1.5},
    ],
)
def test_wrong_limits_are_refused(daemon: RunningDaemon, wrong: JSON) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "web")
    for attempt in (
        lambda: daemon.api.endpoint("foo", "db", bandwidth=wrong),
        lambda: daemon.api.patch("/services/web", bandwidth=wrong),
        lambda: daemon.api.network("bar", **wrong),
    ):
        with pytest.raises(RefusedError, match=r"rate|burst"):
            attempt()
    with pytest.raises(RefusedError, match="cannot limit"):
        daemon.api.endpoint("none", "db", bandwidth=LIMITS)
