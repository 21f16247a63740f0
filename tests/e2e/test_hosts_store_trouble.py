"""Several hosts whose store is in trouble, but not away: full, compacted, with a member that is cut off or replaced.

All tests share a lab, and leave its store as they have found it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sandnet.lab.etcd_member import etcd_command
from tests.support.lab import BUSY, LEASE, SLEEPER, RunningLab, refusal, started_lab

pytestmark = pytest.mark.timeout(400)
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
    lab.start_neighbours()
    yield lab
    for number in lab.hosts:
        lab.run(number, "pkill", "-f", SLEEPER)
    lab.wait_until_possible(lab.client(1).clear, BUSY)
    lab.wait_until(lambda: not any(lab.client(number).get("/networks", name="blue") for number in lab.hosts), BUSY)


def etcdctl(lab: RunningLab, *words: str, members: Sequence[int] = (1, 2, 3)) -> str:
    """The output of etcdctl on host 1, which asks some members; they may be slow."""
    endpoints = ",".join(f"10.200.0.{number}:2379" for number in members)
    return lab.sh(1, "etcdctl", "--command-timeout=30s", "--dial-timeout=10s", f"--endpoints={endpoints}", *words)


def compact(lab: RunningLab, *members: int) -> None:
    """Drop the history of the store."""
    status = json.loads(etcdctl(lab, "get", "generation", "--write-out=json", members=members))
    etcdctl(lab, "compact", "--physical", str(status["header"]["revision"]), members=members)


def endpoints(lab: RunningLab, number: int) -> set[str]:
    """The names of the endpoints that a host lists."""
    return {each["name"] for each in lab.client(number).get("/networks/blue/endpoints")}


def lease_of(lab: RunningLab, number: int, members: Sequence[int] = (1, 2, 3)) -> int:
    """The lease of a host; 0: it has none."""
    alive = etcdctl(lab, "get", "--print-value-only", f"/sandnet/alive/h{number}", members=members)
    return int(json.loads(alive)["lease"]) if alive else 0


def renewed(lab: RunningLab, number: int, members: Sequence[int] = (1, 2, 3)) -> bool:
    """Wait until the lease of a host lasts longer than it did; whether it has not ended before."""
    seen: list[int] = []
    lease = f"{lease_of(lab, number, members):x}"
    while not seen or (seen[-1] > 0 and min(seen) >= seen[-1]):
        found = etcdctl(lab, "lease", "timetolive", "--write-out=json", lease, members=members)
        seen.append(json.loads(found)["ttl"])
    return seen[-1] > 0


def fill(lab: RunningLab) -> None:
    """Write values of another program until the store is full."""
    for number in range(2 * QUOTA // len(FILLING)):
        if "NOSPACE" in etcdctl(lab, "alarm", "list"):
            return
        lab.run(1, "etcdctl", "--endpoints=10.200.0.1:2379", "put", f"filling/{number}", FILLING)
    raise AssertionError("the store takes more than its quota")


def make_room(lab: RunningLab) -> None:
    """Free the space of a full store, as docs/host-upkeep.md has it, and let it accept changes again."""
    etcdctl(lab, "del", "--prefix", "filling/")
    compact(lab, *lab.hosts)
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
        assert lab.pings(1, "db")
        lab.client(1).delete("/networks/blue/endpoints/spare")
        lab.sandnet(2, "network", "rm", "red")
        lab.client(2).leave("blue", "db", lab.containers[2])
        lab.wait_until(lambda: not lab.client(3).get("/networks", name="red"), BUSY)
        lab.wait_until(lambda: lab.client(3).get("/nodes/h2")["attachments"] == 0, BUSY)
        lab.run(1, "pkill", "-f", SLEEPER)
        lab.wait_until(lambda: not endpoints(lab, 3) & {"spare", "web"}, BUSY)

    def test_restarted_daemon_goes_on_with_its_lease(self, full: RunningLab) -> None:
        """It could not raise its fencing number, and let its lease end: its names were gone until there was room."""
        lab = full
        lab.kill(2)
        lab.start(2)
        assert renewed(lab, 2)
        assert lab.pings(2, "web")
        assert lab.pings(1, "db")

    def test_all_changes_are_possible_when_there_is_room(self, full: RunningLab) -> None:
        lab = full
        assert refusal(lambda: lab.client(3).network("green", "overlay")).status == 503
        make_room(lab)
        lab.client(3).network("green", "overlay")
        lab.wait_until(lambda: all(lab.client(number).get("/networks", name="green") for number in lab.hosts), BUSY)
        lab.client(2).join("blue", "spare", "late")
        lab.wait_until(lambda: lab.client(1).get("/nodes/h2")["attachments"] == 2, BUSY)
        lab.client(2).leave("blue", "spare", "late")
        assert [node["state"] for node in lab.client(1).get("/nodes")] == ["alive"] * 3


def test_compaction_while_a_host_is_cut_off_loses_no_change(lab: RunningLab) -> None:
    lab.client(1).network("red", "overlay")
    lab.client(1).endpoint("blue", "early")
    lab.wait_until(lambda: lab.client(2).get("/networks", name="red") and "early" in endpoints(lab, 2), BUSY)
    lab.partition([2], [1, 3], store_only=True)
    lab.wait_until(lambda: lab.client(1).get("/nodes/h2")["state"] == "away", LEASE + BUSY)  # its watch has ended too
    lab.wait_until_possible(lambda: lab.client(1).delete("/networks/blue/endpoints/early"), BUSY)
    lab.wait_until_possible(lambda: lab.client(3).delete("/networks/red"), BUSY)
    lab.wait_until_possible(lambda: lab.client(3).endpoint("blue", "late"), BUSY)
    assert {"early", "web"} <= endpoints(lab, 2)
    compact(lab, 1, 3)

    lab.heal()
    lab.wait_until(lambda: endpoints(lab, 2) == {"web", "db", "late"}, BUSY)
    lab.wait_until(lambda: not lab.client(2).get("/networks", name="red"), BUSY)
    lab.wait_until(lambda: lab.pings(1, "db") and lab.pings(2, "web"), BUSY)
    lab.client(2).network("green", "overlay")


class TestMember:
    def test_member_without_its_peers_is_left_by_all_hosts(self, lab: RunningLab) -> None:
        """All daemons reach it; it is the leader at first, and neither refuses nor answers what it cannot decide."""
        leader = lab.wait_for_leader()
        others = [number for number in lab.hosts if number != leader]
        leases = {number: lease_of(lab, number) for number in lab.hosts}
        lab.sh(leader, "nft", f"add table inet cut; {chain('input')} {chain('output')}")
        try:
            lab.wait_until(lambda: lab.leader() in others, BUSY)
            for number in lab.hosts:
                self.create_and_see(lab, number, f"net{number}")
            assert all(renewed(lab, number, others) for number in lab.hosts)
            assert {number: lease_of(lab, number, others) for number in lab.hosts} == leases
        finally:
            lab.sh(leader, "nft", "delete table inet cut")
        lab.wait_until(lambda: all(host.store in ("leader", "follower") for host in lab.control.status().hosts), BUSY)

    @staticmethod
    def create_and_see(lab: RunningLab, number: int, name: str) -> None:
        """Create a network on a host, and wait until all have it."""
        lab.wait_until_possible(lambda: lab.client(number).network(name, "overlay"), BUSY)
        lab.wait_until(lambda: all(lab.client(each).get("/networks", name=name) for each in lab.hosts), BUSY)

    def test_lost_member_is_replaced_while_the_others_serve(self, lab: RunningLab) -> None:
        """As docs/host-upkeep.md has it for a machine that is lost."""
        lab.member(2, "kill")
        lab.sh(2, "rm", "-r", "/var/lib/etcd/data")
        found = json.loads(etcdctl(lab, "member", "list", "--write-out=json"))["members"]
        (lost,) = (each["ID"] for each in found if each["name"] == "h2")
        lab.wait_until_possible(lambda: lab.client(2).endpoint("blue", "meanwhile"), BUSY)
        etcdctl(lab, "member", "remove", f"{lost:x}")
        add = ("etcdctl", "--endpoints=10.200.0.1:2379", "member", "add", "h2", "--peer-urls=http://10.200.0.2:2380")
        lab.wait_until(lambda: lab.run(1, *add).returncode == 0, BUSY)  # not before the others are stable
        command = etcd_command(2, 3, ["--initial-cluster-state=existing"])
        new = lab.popen(2, "sh", "-c", 'exec "$@" >/var/lib/etcd/new.log 2>&1', "sh", *command)  # no pipe that fills
        health = ("etcdctl", "--endpoints=10.200.0.2:2379", "endpoint", "health")
        lab.wait_until(lambda: lab.run(1, *health).returncode == 0, BUSY)
        etcdctl(lab, "defrag", members=[2])  # it has replayed what had filled the others
        lab.sh(2, "pkill", "-x", "etcd")
        new.wait(BUSY)  # it has ended: nsenter waits for it
        lab.member(2, "start")  # with the data that it has by now
        lab.wait_until(lambda: lab.host(2).store == "follower", BUSY)
        lab.member(1, "stop")
        lab.wait_until_possible(lambda: lab.client(1).endpoint("blue", "late"), BUSY)
        lab.member(1, "start")
        lab.wait_until(lambda: {"meanwhile", "late"} <= endpoints(lab, 3), BUSY)
        lab.wait_until(lambda: lab.host(1).store in ("leader", "follower"), BUSY)


def chain(hook: str) -> str:
    """A chain that drops what members of etcd send each other; clients and sandboxes use other ports."""
    base = f"type filter hook {hook} priority 0;"
    return (
        f"add chain inet cut {hook} {{ {base} }}; add rule inet cut {hook} tcp dport 2380 drop; "
        f"add rule inet cut {hook} tcp sport 2380 drop;"
    )


class TestNewerRelease:
    """Records of a release that knows more, written by hand: with a format that this one does not have."""

    def test_unknown_fields_are_ignored(self, lab: RunningLab) -> None:
        key, network = self.record(lab, "network")
        host = {"name": "h9", "release": "9.0.0", "formats": [1, 2, 3], "underlay": "10.200.0.9", "colour": "blue"}
        self.put(lab, "/sandnet/host/h9", host)
        self.put(lab, key, {**network, "colour": "blue", "network": {**network["network"], "colour": "blue"}})
        lab.wait_until(lambda: all("9.0.0" in lab.sandnet(number, "node", "ls") for number in lab.hosts), BUSY)
        lab.client(3).endpoint("blue", "late")
        lab.wait_until(lambda: "late" in endpoints(lab, 2), BUSY)
        assert lab.pings(1, "db")
        assert lab.pings(2, "web")
        lab.sandnet(1, "node", "rm", "h9")

    @pytest.mark.parametrize("kind", ["network", "endpoint"])
    def test_unreadable_record_leaves_what_a_host_has(self, lab: RunningLab, kind: str) -> None:
        """A network whose record could not be read was removed from all hosts, with all that was attached."""
        lab.client(3).endpoint("blue", "late")
        lab.wait_until(lambda: endpoints(lab, 1) == {"web", "db", "late"}, BUSY)
        key, record = self.record(lab, kind)
        self.put(lab, key, {"format": 2})
        name = key.removeprefix("/sandnet/").rpartition("/")[2]
        for number in lab.hosts:
            lab.wait_until(lambda number=number: name in lab.client(number).http.get("/healthz").text, BUSY)  # type: ignore[misc]
            assert endpoints(lab, number) == {"web", "db", "late"}
        assert lab.pings(1, "db")
        assert lab.pings(2, "web")
        self.put(lab, key, record)
        for number in lab.hosts:
            lab.wait_until(lambda number=number: name not in lab.client(number).http.get("/healthz").text, BUSY)  # type: ignore[misc]

    @staticmethod
    def record(lab: RunningLab, kind: str) -> tuple[str, dict[str, Any]]:
        """Key and value of the network ``blue``, or of its endpoint ``late``."""
        found = json.loads(etcdctl(lab, "get", "--prefix", f"/sandnet/{kind}/", "--write-out=json"))["kvs"]
        named = {"network": "blue", "endpoint": "late"}[kind]
        for each in found:
            key, value = (base64.b64decode(each[part]).decode() for part in ("key", "value"))
            if json.loads(value)[kind]["name"] == named:
                return key, json.loads(value)
        raise AssertionError(f"the store has no {kind} {named}")

    @staticmethod
    def put(lab: RunningLab, key: str, value: dict[str, Any]) -> None:
        """Write a value as another release would."""
        etcdctl(lab, "put", key, json.dumps(value))
