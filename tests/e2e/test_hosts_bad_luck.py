"""Several hosts in bad luck: what goes on without the store, what is refused, and what others may have when a host is
gone. Each test has a lab of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lab import BUSY, LEASE, LabFactory, RunningLab, lab_directory, new_lab, refusal

__all__ = ["lab_directory", "new_lab"]

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def lab(new_lab: LabFactory) -> RunningLab:
    """Three hosts with the network ``blue``, on which ``web`` of host 1 and ``db`` of host 2 know each other."""
    lab = new_lab(3)
    lab.start_neighbours()
    return lab


class TestStore:
    def test_killed_leader_delays_changes_and_loses_none(self, lab: RunningLab) -> None:
        lab.member(lab.wait_for_leader(), "kill")
        lab.wait_until_possible(lambda: lab.client(1).endpoint("blue", "late"), BUSY)
        lab.wait_until(lambda: "late" in lab.sandnet(2, "endpoint", "ls", "blue"), BUSY)
        assert lab.pings(1, "db")

    def test_without_the_store_reads_names_and_traffic_go_on(self, lab: RunningLab) -> None:
        for number in lab.hosts:
            lab.member(number, "kill")
        apis = {number: lab.client(number, patient=False) for number in lab.hosts}
        for number in lab.hosts:
            assert [net["name"] for net in apis[number].get("/networks", name="blue")] == ["blue"]
        assert lab.resolved(1, lab.containers[1], "db")
        assert lab.pings(1, "db")
        assert lab.pings(2, "web")
        assert refusal(lambda: apis[3].network("red", "overlay")).status == 503
        assert refusal(lambda: apis[1].endpoint("blue", "late")).status == 503

    def test_hosts_converge_when_the_store_is_back(self, lab: RunningLab) -> None:
        for number in lab.hosts:
            lab.member(number, "kill")
        assert refusal(lambda: lab.client(3, patient=False).network("red", "overlay")).status == 503
        lab.client(3).network("local", "bridge")
        for number in lab.hosts:
            lab.member(number, "start")
        lab.wait_until_possible(lambda: lab.client(2).network("green", "overlay"), BUSY)
        lab.wait_until(lambda: all(lab.client(number).get("/networks", name="green") for number in lab.hosts), BUSY)
        lab.wait_until(lambda: lab.pings(1, "db") and lab.pings(2, "web"), BUSY)

    def test_host_cut_off_from_the_store_is_void_and_comes_back(self, lab: RunningLab) -> None:
        lab.partition([2], [1, 3], store_only=True)
        lab.wait_until(lambda: not lab.resolved(1, lab.containers[1], "db"), LEASE + BUSY)
        assert lab.client(2).get("/networks", name="blue")
        assert lab.resolved(2, lab.containers[2], "db")
        lab.heal()
        lab.wait_until(lambda: lab.resolved(1, lab.containers[1], "db"), LEASE + BUSY)
        lab.wait_until(lambda: lab.pings(1, "db"), BUSY)


class TestHost:
    def test_names_of_a_host_without_power_end_with_its_lease(self, lab: RunningLab) -> None:
        lab.kill(2, power=True)
        lab.wait_until(lambda: not lab.resolved(1, lab.containers[1], "db"), LEASE + BUSY)
        lab.wait_until(lambda: lab.run(3, "sandnet", *RUN_DB).returncode == 0, BUSY)
        lab.wait_until(lambda: lab.pings(1, "db"), BUSY)

    def test_killed_daemon_keeps_its_names_when_it_starts_again(self, lab: RunningLab) -> None:
        lab.kill(2)
        lab.start(2)
        assert lab.resolved(1, lab.containers[1], "db")
        assert lab.pings(1, "db")
        lab.client(2).endpoint("blue", "late")
        lab.wait_until(lambda: "late" in lab.sandnet(1, "endpoint", "ls", "blue"), BUSY)

    @pytest.mark.parametrize("lose_state", [False, True], ids=["with-state", "without-state"])
    def test_host_is_used_again_after_a_loss_of_power(self, lab: RunningLab, lose_state: bool) -> None:
        lab.kill(2, power=True, lose_state=lose_state)
        lab.start(2)
        lab.wait_until(lambda: lab.client(2).get("/networks", name="blue"), BUSY)
        lab.wait_until(lambda: lab.run(2, "sandnet", *RUN_DB).returncode == 0, LEASE + BUSY)
        lab.wait_until(lambda: lab.pings(1, "db"), BUSY)


RUN_DB = ("run", "-d", "--net", "blue", "--name", "db", "--", "sleep", "1234")


class TestDown:
    def test_down_frees_at_once_what_a_host_had(self, lab: RunningLab) -> None:
        """It deleted shared networks over a store that it had not reached, and left their bridges behind."""
        members = ",".join(f"h{number}:2379" for number in lab.hosts)
        lab.sandnet(1, "down", "--store", f"etcd://{members}/sandnet")
        assert "snb" not in lab.sh(1, "ip", "-br", "link")
        lab.wait_until(lambda: not lab.resolved(2, lab.containers[2], "web"), 9.0)
        lab.client(3).endpoint("blue", "web")
        assert [net["name"] for net in lab.client(2).get("/networks", name="blue")] == ["blue"]


AHEAD = """\
import time

shown, shown_ns = time.time, time.time_ns
time.time = lambda: shown() + 3600
time.time_ns = lambda: shown_ns() + 3600 * 10**9
"""
"""Sets the clock of a Python program an hour ahead (module sitecustomize). Namespaces of time have no clock of the day
(time_namespaces(7)), and libfaketime 0.9.10 lets threads of Python wait for ever."""


class TestClock:
    def test_daemon_an_hour_ahead_is_a_host_like_the_others(self, lab: RunningLab, tmp_path: Path) -> None:
        tmp_path.joinpath("sitecustomize.py").write_text(AHEAD)
        lab.kill(2)
        members = ",".join(f"10.200.0.{number}:2379" for number in lab.hosts)
        words = ("sandnet", "daemon", f"--store=etcd://{members}/sandnet", "--underlay=10.200.0.2")
        ahead = lab.popen(2, "env", f"PYTHONPATH={tmp_path}", *words)
        lab.wait_until(lambda: lab.run(2, "sandnet", "status").returncode == 0, BUSY)
        lab.wait_until(lambda: self.clocks(lab, 1) == {"h2": 3600, "h3": 0}, BUSY)
        lab.wait_until(lambda: self.clocks(lab, 2) == {"h1": -3600, "h3": -3600}, BUSY)

        for number in lab.hosts:
            lab.client(number).endpoint("blue", f"of-{number}")
        made = {f"of-{number}" for number in lab.hosts}
        lab.wait_until(lambda: all(made <= endpoints(lab, number) for number in lab.hosts), BUSY)
        assert lab.pings(1, "db")
        assert lab.pings(2, "web")
        lab.client(1).delete("/networks/blue/endpoints/of-2")
        lab.wait_until(lambda: "of-2" not in endpoints(lab, 2), BUSY)

        ahead.kill()
        lab.wait_until(lambda: not lab.resolved(1, lab.containers[1], "db"), LEASE + BUSY)
        lab.start(2)
        lab.wait_until(lambda: lab.pings(1, "db") and self.clocks(lab, 1) == {"h2": 0, "h3": 0}, LEASE + BUSY)

    @staticmethod
    def clocks(lab: RunningLab, number: int) -> dict[str, int]:
        """By how many seconds the clocks of the other hosts are ahead of a host's; only those that answer."""
        found = lab.client(number).get("/reachability")
        return {
            each["name"]: round(each["clock_ahead_ms"] / 1000) for each in found if each["clock_ahead_ms"] is not None
        }


def endpoints(lab: RunningLab, number: int) -> set[str]:
    """The names of the endpoints that a host lists."""
    return {each["name"] for each in lab.client(number).get("/networks/blue/endpoints")}
