"""Several hosts whose store is in trouble, but not away: full, compacted, with a member that is cut off or replaced.

All tests share a lab, and leave its store as they have found it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import RefusedError
from tests.support.lab import SLEEPER, RunningLab, started_lab

SECONDS = 20.0
"""Until a change is seen on other hosts, or a new leader of etcd is there, on a busy machine."""
REFUSAL = 2.0
"""Seconds in which a change is refused."""
QUOTA = 4 << 20
"""Bytes of which a member of etcd is full."""
FILLING = "x" * 100_000
"""A value of which a few dozen fill the store."""


@pytest.fixture(scope="module")
def common_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with started_lab(tmp_path_factory.mktemp("labs"), 3, f"--etcd-option=--quota-backend-bytes={QUOTA}") as lab:
        yield lab


@pytest.fixture
def lab(common_lab: RunningLab) -> Iterator[RunningLab]:
    """Three hosts with the network ``blue``, on which ``web`` of host 1 and ``db`` of host 2 know each other."""
    lab = common_lab
    lab.client(1).network("blue", "overlay")
    lab.wait_until(lambda: all(lab.client(number).get("/networks", name="blue") for number in lab.hosts))
    lab.containers = {1: lab.start_sleeper(1, "blue", "web"), 2: lab.start_sleeper(2, "blue", "db")}
    lab.wait_until(lambda: lab.resolved(1, lab.containers[1], "db") and lab.resolved(2, lab.containers[2], "web"))
    yield lab
    for number in lab.hosts:
        lab.run(number, "pkill", "-f", SLEEPER)
    lab.wait_until(lambda: is_possible(lab.client(1).clear), SECONDS)
    lab.wait_until(lambda: not any(lab.client(number).get("/networks", name="blue") for number in lab.hosts), SECONDS)


def is_possible(change: Callable[[], object]) -> bool:
    """Whether a change is not refused."""
    try:
        change()
    except RefusedError:
        return False
    return True


def refusal(change: Callable[[], object]) -> RefusedError:
    """The error with which a change is refused, in time."""
    began = time.monotonic()
    with pytest.raises(RefusedError) as refused:
        change()
    assert time.monotonic() - began < REFUSAL
    return refused.value


def etcdctl(lab: RunningLab, *words: str) -> str:
    """The output of etcdctl, which asks all members."""
    return lab.sh(1, "etcdctl", f"--endpoints={','.join(f'10.200.0.{number}:2379' for number in lab.hosts)}", *words)


def pings(lab: RunningLab, number: int, name: str) -> bool:
    """Whether the endpoint of a host reaches another by its name."""
    words = ("sandnet", "sandbox", "exec", lab.containers[number], "--", "ping", "-c1", "-W1", "-q", name)
    return lab.run(number, *words).returncode == 0


def endpoints(lab: RunningLab, number: int) -> set[str]:
    """The names of the endpoints that a host lists."""
    return {each["name"] for each in lab.client(number).get("/networks/blue/endpoints")}


def lease_seconds(lab: RunningLab, number: int) -> int:
    """The seconds that the lease of a host lasts unless it is renewed."""
    alive = json.loads(etcdctl(lab, "get", "--print-value-only", f"/sandnet/alive/h{number}") or "{}")
    found = json.loads(etcdctl(lab, "lease", "timetolive", "--write-out=json", f"{alive.get('lease', 0):x}"))
    return int(found["ttl"])


def fill(lab: RunningLab) -> None:
    """Write values of another program until the store is full."""
    for number in range(2 * QUOTA // len(FILLING)):
        if "NOSPACE" in etcdctl(lab, "alarm", "list"):
            return
        lab.run(1, "etcdctl", "--endpoints=10.200.0.1:2379", "put", f"filling/{number}", FILLING)
    raise AssertionError("the store takes more than its quota")


def make_room(lab: RunningLab) -> None:
    """Free the space of a full store, as docs/host-upkeep.md has it, and let it accept changes again."""
    revision = etcdctl(lab, "del", "--prefix", "filling/", "--write-out=json").partition('"revision":')[2]
    etcdctl(lab, "compact", "--physical", revision.partition(",")[0])
    etcdctl(lab, "defrag")
    etcdctl(lab, "alarm", "disarm")


@pytest.fixture
def full(lab: RunningLab) -> Iterator[RunningLab]:
    """The lab with a full store, a spare endpoint and a network without endpoints."""
    lab.client(3).endpoint("blue", "spare")
    lab.client(3).network("red", "overlay")
    lab.wait_until(lambda: lab.client(1).get("/networks", name="red"))
    lab.wait_until(lambda: "spare" in lab.sandnet(1, "endpoint", "ls", "blue"))
    fill(lab)
    yield lab
    make_room(lab)


class TestFull:
    def test_creations_are_refused_with_the_way_out(self, full: RunningLab) -> None:
        for change in (
            lambda: full.client(3).network("green", "overlay"),
            lambda: full.client(1).endpoint("blue", "late"),
            lambda: full.client(2).join("blue", "spare", "late"),
        ):
            refused = refusal(change)
            assert refused.status == 503
            assert refused.body["code"] == "store_full"
            assert "disarm" in refused.body["hint"]

    def test_reads_traffic_and_releases_go_on(self, full: RunningLab) -> None:
        lab = full
        assert pings(lab, 1, "db")
        lab.client(1).delete("/networks/blue/endpoints/spare")
        lab.sandnet(2, "network", "rm", "red")
        lab.client(2).leave("blue", "db", lab.containers[2])
        lab.wait_until(lambda: not lab.client(3).get("/networks", name="red"), SECONDS)
        lab.wait_until(lambda: lab.client(3).get("/nodes/h2")["attachments"] == 0, SECONDS)
        lab.run(1, "pkill", "-f", SLEEPER)
        lab.wait_until(lambda: not endpoints(lab, 3) & {"spare", "web"}, SECONDS)

    def test_restarted_daemon_goes_on_with_its_lease(self, full: RunningLab) -> None:
        """It could not raise its fencing number, and let its lease end: its names were gone until there was room."""
        lab = full
        lab.kill(2)
        lab.start(2)
        seen = [lease_seconds(lab, 2)]
        while min(seen) >= seen[-1]:  # until it is longer than it was
            seen.append(lease_seconds(lab, 2))
            assert seen[-1] > 0
        assert pings(lab, 2, "web")
        assert pings(lab, 1, "db")

    def test_all_changes_are_possible_when_there_is_room(self, full: RunningLab) -> None:
        lab = full
        assert refusal(lambda: lab.client(3).network("green", "overlay")).status == 503
        make_room(lab)
        lab.client(3).network("green", "overlay")
        lab.wait_until(lambda: all(lab.client(number).get("/networks", name="green") for number in lab.hosts), SECONDS)
        lab.client(2).join("blue", "spare", "late")
        lab.wait_until(lambda: lab.client(1).get("/nodes/h2")["attachments"] == 2, SECONDS)
        lab.client(2).leave("blue", "spare", "late")
        assert [node["state"] for node in lab.client(1).get("/nodes")] == ["alive"] * 3
