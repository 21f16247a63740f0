"""``sandnet lab``: hosts that have everything of their own, bad luck on request, and an end that leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandnet.errors import Error
from sandnet.lab import startup
from sandnet.lab.lab_directory import BASE_VARIABLE, LOCK
from sandnet.lab.lab_spec import LabSpec
from tests.support.daemon import SANDNET, processes
from tests.support.lab import DOUBT, LabFactory, RunningLab, lab_command, lab_directory, new_lab, started_lab
from tests.support.network_host import eventually
from tests.support.privileges import needs_taps

__all__ = ["lab_directory", "new_lab"]


@pytest.fixture(scope="module")
def common_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """Three hosts and a cluster for the tests that leave both as they were."""
    with started_lab(tmp_path_factory.mktemp("labs")) as lab:
        yield lab


@pytest.fixture
def lab(common_lab: RunningLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningLab]:
    """The common lab, healed and started afterwards."""
    monkeypatch.setenv(BASE_VARIABLE, str(common_lab.control.directory.path.parent))
    yield common_lab
    common_lab.heal()
    for number in common_lab.hosts:
        common_lab.start(number)
        common_lab.member(number, "start")
    common_lab.wait_until(lambda: sorted(host.store for host in common_lab.control.status().hosts) == ROLES)


ROLES = ["follower", "follower", "leader"]


def supervisors(directory: Path) -> list[int]:
    """The first processes of labs below a directory: they hold the locks there, in PID namespaces of their own."""
    locks = {str(lock) for lock in directory.glob(f"*/{LOCK}")}
    here = os.readlink("/proc/self/ns/pid")
    found = []
    for pid, _ in processes():
        with suppress(OSError):
            opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            if opened & locks and os.readlink(f"/proc/{pid}/ns/pid") != here:
                found.append(pid)
    return found


COUNT_ECHOES = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
    print("ready", flush=True)
    while icmp.recv(2048)[20] != 8:
        pass
    print("echo", flush=True)
"""
"""Prints a line when an ICMP echo request has arrived."""
LISTEN = """
import socket, time
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    time.sleep(600)
"""
CONNECT = """
import socket
with socket.create_connection(("h2", 7000), 10) as connection:
    print("connected", flush=True)
    connection.settimeout(2)
    try:
        print("end" if connection.recv(1) == b"" else "data")
    except TimeoutError:
        print("silence")
"""


class TestHost:
    def test_hosts_reach_each_other_by_name_in_both_families(self, lab: RunningLab) -> None:
        assert all(lab.reaches(here, there.address) for here in lab.hosts for there in lab.control.status().hosts)
        assert lab.sh(1, "ping", "-6", "-c1", "-W1", "h3")

    def test_host_has_network_processes_and_files_of_its_own(self, lab: RunningLab) -> None:
        lab.sh(1, "touch", "/run/own", "/var/lib/own")
        assert lab.run(2, "ls", "/run/own", "/var/lib/own").returncode == 2
        assert lab.sh(2, "hostname") == "h2\n"
        assert "eth0" in lab.sh(1, "ls", "/sys/class/net").split()
        assert "etcd" in lab.sh(1, "ps", "-A", "-o", "comm=").split()
        assert lab.sh(1, "ps", "-A", "-o", "comm=").split().count("etcd") == 1

    def test_sandnet_on_a_host_talks_to_the_daemon_of_that_host(self, lab: RunningLab) -> None:
        lab.sandnet(1, "network", "create", "only-here")
        assert "only-here" in lab.sandnet(1, "network", "ls")
        assert "only-here" not in lab.sandnet(2, "network", "ls")
        assert [net["name"] for net in lab.client(1).get("/networks", name="only-here")] == ["only-here"]
        lab.sandnet(1, "network", "rm", "only-here")

    def test_exec_passes_status_output_input_and_directory_on(self, lab: RunningLab, tmp_path: Path) -> None:
        done = subprocess.run(
            [SANDNET, "lab", "exec", "--name", "common", "2", "--", "sh", "-c", "hostname; pwd; cat; exit 7"],
            input="typed\n", capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (7, f"h2\n{tmp_path}\ntyped\n")

    def test_exec_reports_what_it_cannot_run(self, lab: RunningLab) -> None:
        missing = lab_command("exec", "--name", "common", "1", "nonsense")
        assert (missing.returncode, missing.stderr) == (
            127,
            "sandnet: cannot run nonsense: No such file or directory\n",
        )
        nowhere = lab_command("exec", "--name", "common", "4", "true")
        assert nowhere.returncode == 1
        assert nowhere.stderr == "sandnet: there is no host 4\n  hosts are numbered from 1 to 3\n"

    def test_signal_to_exec_reaches_the_command(self, lab: RunningLab) -> None:
        words = [
            "exec",
            "--name",
            "common",
            "1",
            "--",
            "sh",
            "-c",
            "trap 'exit 5' TERM; echo on; while :; do sleep 0.1; done",
        ]
        with subprocess.Popen([SANDNET, "lab", *words], stdout=subprocess.PIPE, text=True) as started:
            assert started.stdout is not None
            assert started.stdout.readline() == "on\n"
            started.terminate()
            assert started.wait(20) == 5

    def test_command_of_a_killed_exec_ends(self, lab: RunningLab) -> None:
        words = ["exec", "--name", "common", "1", "--", "sh", "-c", "echo on; exec sleep 12345"]
        with subprocess.Popen([SANDNET, "lab", *words], stdout=subprocess.PIPE, text=True) as started:
            assert started.stdout is not None
            assert started.stdout.readline() == "on\n"
            started.kill()
        lab.wait_until(lambda: "12345" not in lab.sh(1, "ps", "-A", "-o", "args="))


class TestBadLuck:
    def test_partition_cuts_until_it_is_healed(self, lab: RunningLab) -> None:
        assert lab_command("partition", "--name", "common", "1", "2,3").returncode == 0
        assert not lab.reaches(1, lab.host(2).address, DOUBT)
        assert not lab.reaches(3, lab.host(1).address, DOUBT)
        assert lab.reaches(2, lab.host(3).address)
        assert lab.host(1).cut_from == (2, 3)
        assert lab_command("heal", "--name", "common").returncode == 0
        assert lab.reaches(1, lab.host(2).address)

    def test_partition_one_way_lets_the_other_way_pass(self, lab: RunningLab) -> None:
        lab.sh(2, "ip", "neigh", "replace", lab.host(1).address, "lladdr", "02:5a:6e:00:00:01", "dev", "eth0")
        capture = lab.popen(1, sys_python(), "-c", COUNT_ECHOES)
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        assert lab_command("partition", "--name", "common", "--one-way", "1", "2").returncode == 0
        assert not lab.reaches(2, lab.host(1).address, DOUBT)
        assert capture.stdout.readline() == "echo\n"

    def test_partition_of_the_store_leaves_other_packets(self, lab: RunningLab) -> None:
        lab.partition([3], [1, 2], store_only=True)
        assert lab.reaches(3, lab.host(1).address)
        lab.wait_until(lambda: lab.host(3).store == "no leader")
        assert lab.host(3).cut_from_store_of == (1, 2)

    @needs_taps
    def test_delay_holds_each_frame_once_in_each_direction(self, lab: RunningLab) -> None:
        assert lab_command("delay", "--name", "common", "2", "50").returncode == 0

        def assert_is_held_once() -> None:
            out = lab.sh(1, "ping", "-c5", "-i0.2", "-n", lab.host(2).address)
            times = [float(found) for found in re.findall(r"time=([\d.]+)", out)]
            assert len(times) == 5
            assert 100 <= min(times) < 130

        lab.wait_until_passed(assert_is_held_once)
        assert lab.reaches(1, lab.host(3).address)

    @needs_taps
    def test_loss_loses_a_share_of_the_frames(self, lab: RunningLab) -> None:
        assert lab_command("loss", "--name", "common", "3", "50").returncode == 0
        out = lab.run(1, "ping", "-c200", "-i0.01", "-W1", "-n", lab.host(3).address).stdout
        received = int(out.partition(" received")[0].rpartition(" ")[2])
        assert 20 < received < 85  # 50 are expected, with a deviation of 6
        lab.heal()
        assert lab.reaches(1, lab.host(3).address)

    @needs_taps
    def test_partition_holds_for_a_host_with_a_delay(self, lab: RunningLab) -> None:
        lab.impair(2, delay=0.005)
        lab.partition([1], [2])
        assert not lab.reaches(1, lab.host(2).address, DOUBT)
        assert lab.reaches(3, lab.host(2).address)

    def test_killed_daemon_starts_again_with_its_state(self, lab: RunningLab) -> None:
        lab.sandnet(2, "network", "create", "kept")
        lab.kill(2)
        assert lab.host(2).daemon == "killed"
        lab.start(2)
        assert "kept" in lab.sandnet(2, "network", "ls")
        lab.sandnet(2, "network", "rm", "kept")

    def test_killed_leader_is_followed_by_another(self, lab: RunningLab) -> None:
        leader = lab.wait_for_leader()
        assert lab_command("etcd", "kill", "--name", "common", str(leader)).returncode == 0
        assert lab.host(leader).store == "killed"
        lab.wait_until(lambda: lab.leader() not in (0, leader))

    def test_member_that_is_stopped_starts_again(self, lab: RunningLab) -> None:
        lab.member(3, "stop")
        assert lab.host(3).store in ("stopped", "killed")
        lab.member(3, "start")
        lab.wait_until(lambda: lab.host(3).store == "follower")


class TestPower:
    def test_host_without_power_is_gone_and_comes_back(self, new_lab: LabFactory) -> None:
        lab = new_lab(3)
        lab.sandnet(3, "network", "create", "kept")
        boot = lab.sh(3, "cat", "/proc/sys/kernel/random/boot_id")
        machine = lab.sh(3, "cat", "/etc/machine-id")
        lab.kill(3, power=True)
        assert (lab.host(3).power, lab.host(3).daemon, lab.host(3).store) == (False, "off", "off")
        assert not lab.reaches(1, lab.host(3).address, DOUBT)
        refused = lab_command("exec", "--name", "lab0", "3", "true")
        assert refused.stderr == "sandnet: the host 3 has no power\n  start it: sandnet lab start 3\n"
        lab.start(3)
        assert "kept" in lab.sandnet(3, "network", "ls")
        assert lab.sh(3, "cat", "/proc/sys/kernel/random/boot_id") != boot
        assert lab.sh(3, "cat", "/etc/machine-id") == machine
        assert lab.reaches(1, lab.host(3).address)
        lab.wait_until(lambda: lab.host(3).store == "follower")

    def test_host_can_lose_its_state_with_its_power(self, new_lab: LabFactory) -> None:
        lab = new_lab(1, "--no-store")
        lab.sandnet(1, "network", "create", "lost")
        lab.kill(1, power=True, lose_state=True)
        lab.start(1)
        assert "lost" not in lab.sandnet(1, "network", "ls")

    def test_power_cut_sends_no_last_packet(self, new_lab: LabFactory) -> None:
        lab = new_lab(2, "--no-store")
        server = lab.popen(2, sys_python(), "-c", LISTEN)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        client = lab.popen(1, sys_python(), "-c", CONNECT)
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        lab.kill(2, power=True)
        assert client.wait(20) == 0
        assert client.stdout.readline() == "silence\n"


class TestEnd:
    def test_second_lab_of_a_name_is_refused_and_another_is_not(self, new_lab: LabFactory) -> None:
        first = new_lab(1, "--no-store")
        refused = lab_command("up", "--name", "lab0", "--no-store", "--hosts", "1")
        assert refused.returncode == 1
        assert "the lab lab0 exists already\n  look at it: sandnet lab status --name lab0" in refused.stderr
        second = new_lab(1, "--no-store")
        first.sandnet(1, "network", "create", "of-the-first")
        assert "of-the-first" not in second.sandnet(1, "network", "ls")
        listed = json.loads(lab_command("ls", "--json").stdout)
        assert [each["name"] for each in listed] == ["lab0", "lab1"]

    def test_nothing_is_left_of_a_removed_lab(self, new_lab: LabFactory, lab_directory: Path) -> None:
        new_lab(3)
        ours = family(supervisors(lab_directory)[0])
        assert len(ours) > 12
        assert lab_command("down", "--name", "lab0").returncode == 0
        assert not ours & running()
        assert list(lab_directory.iterdir()) == []

    def test_nothing_but_files_is_left_of_a_killed_supervisor(self, new_lab: LabFactory, lab_directory: Path) -> None:
        new_lab(2)
        (supervisor,) = supervisors(lab_directory)
        ours = family(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: not ours & running())
        killed = lab_command("status", "--name", "lab0")
        assert killed.returncode == 1
        assert "the lab lab0 was killed" in killed.stderr
        again = lab_command("up", "--name", "lab0", "--no-store", "--hosts", "1")
        assert again.returncode == 0, again.stderr

    def test_interrupted_start_leaves_nothing(self, lab_directory: Path) -> None:
        with subprocess.Popen([SANDNET, "lab", "up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
            assert up.stdout is not None
            assert up.stdout.readline().startswith("hosts h1 to h3")
            (supervisor,) = supervisors(lab_directory)
            ours = family(supervisor)
            up.send_signal(signal.SIGINT)
            assert up.wait(30) == 1
        assert not ours & running()
        assert list(lab_directory.iterdir()) == []

    def test_failed_start_reports_the_log_and_leaves_nothing(self, lab_directory: Path) -> None:
        failed = lab_command("up", "--hosts", "1", "--no-store", "--", "--nonsense")
        assert failed.returncode == 1
        assert "a daemon does not serve: host 1: ended with status 2" in failed.stderr
        assert "no such option: --nonsense" in failed.stderr
        assert list(lab_directory.iterdir()) == []

    def test_missing_etcd_is_reported_with_its_package(
        self, lab_directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(startup, "has_program", lambda name: name != "etcd")
        spec = LabSpec(name="lab", hosts=1, store=True, mtu=1500, daemon_options=(), program="/bin/true")
        with pytest.raises(Error, match="etcd cannot be found on this machine") as raised:
            startup.start_lab(spec, print)
        assert raised.value.hint == "apt-get install etcd-server, or make a lab without it: sandnet lab up --no-store"


def sys_python() -> str:
    return str(SANDNET.with_name("python"))


def running() -> set[int]:
    """Processes that have not ended; others wait for the machine's first process to take note."""
    return {pid for pid, words in processes() if words != [b""]}


def family(pid: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for each, _ in processes():
        try:
            parents[each] = int(Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return found
