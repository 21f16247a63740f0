"""What is wrong with the store that hosts share is in health, in ``sandnet doctor`` and in the metrics of each host.

All tests share a lab, and leave its store as they have found it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.lab import BUSY, LEASE, RunningLab, started_lab

pytestmark = pytest.mark.timeout(400)
QUOTA = 4 << 20
"""Bytes of which a member of etcd is full."""
ENDPOINTS = "--endpoints=10.200.0.1:2379,10.200.0.2:2379,10.200.0.3:2379"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with started_lab(tmp_path_factory.mktemp("labs"), 3, f"--etcd-option=--quota-backend-bytes={QUOTA}") as lab:
        lab.wait_until(lambda: not any(problems(lab, number) for number in lab.hosts), BUSY)
        yield lab


def problems(lab: RunningLab, number: int) -> str:
    """The problems in a host's health, a line each."""
    return "\n".join(lab.client(number).get("/healthz")["problems"])


def metric(lab: RunningLab, number: int, name: str) -> float:
    """A figure of a host's daemon."""
    text = lab.client(number).http.get("/metrics").text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_lost_member_is_named_on_every_host_until_it_is_back(lab: RunningLab) -> None:
    leader = lab.wait_for_leader()
    lost = next(number for number in lab.hosts if number != leader)
    lab.member(lost, "kill")
    for number in lab.hosts:
        lab.wait_until(lambda number=number: f"member 10.200.0.{lost}:2379" in problems(lab, number), BUSY)  # type: ignore[misc]
        assert f"member 10.200.0.{lost}:2379 of the shared store is lost" in lab.sandnet(number, "doctor")
        assert metric(lab, number, "sandnet_healthy") == 0
        assert metric(lab, number, "sandnet_lease_seconds") > 0
    lab.member(lost, "start")
    lab.wait_until(lambda: not any(problems(lab, number) for number in lab.hosts), BUSY)


def test_full_store_is_named_on_hosts_that_write_nothing(lab: RunningLab) -> None:
    status = {}
    for filling in range(2 * QUOTA // 100_000):
        if "NOSPACE" in lab.sh(1, "etcdctl", ENDPOINTS, "alarm", "list"):
            break
        lab.run(1, "etcdctl", ENDPOINTS, "put", f"filling/{filling}", "x" * 100_000)
    for number in lab.hosts:
        lab.wait_until(lambda number=number: "the shared store is full" in problems(lab, number), BUSY)  # type: ignore[misc]
        assert "disarm its alarm" in lab.sandnet(number, "doctor")
    lab.sh(1, "etcdctl", ENDPOINTS, "del", "--prefix", "filling/")
    status = json.loads(lab.sh(1, "etcdctl", ENDPOINTS, "get", "generation", "--write-out=json"))
    lab.sh(1, "etcdctl", ENDPOINTS, "compact", "--physical", str(status["header"]["revision"]))
    lab.sh(1, "etcdctl", ENDPOINTS, "defrag")
    lab.sh(1, "etcdctl", ENDPOINTS, "alarm", "disarm")
    lab.wait_until(lambda: not any(problems(lab, number) for number in lab.hosts), BUSY)


def test_silent_store_and_the_ended_lease_are_named(lab: RunningLab) -> None:
    lab.partition([3], [1, 2], store_only=True)
    lab.member(3, "kill")
    lab.wait_until(lambda: "has not answered for" in problems(lab, 3), BUSY)
    lab.wait_until(lambda: "the lease of this host has ended" in problems(lab, 3), LEASE + BUSY)
    assert "the lease of this host has ended" in lab.sandnet(3, "doctor")
    assert "the lease of this host has ended" in lab.run(3, "sandnet", "status").stdout
    assert metric(lab, 3, "sandnet_lease_seconds") == 0
    assert metric(lab, 3, "sandnet_shared_store_silence_seconds") > LEASE / 2
    lab.wait_until(lambda: metric(lab, 1, 'sandnet_hosts{state="away"}') == 1, BUSY)
    lab.member(3, "start")
    lab.heal()
    lab.wait_until(lambda: not any(problems(lab, number) for number in lab.hosts), LEASE + BUSY)
    assert metric(lab, 3, "sandnet_lease_seconds") > 0
    lab.wait_until(lambda: metric(lab, 1, 'sandnet_hosts{state="alive"}') == 3, BUSY)
