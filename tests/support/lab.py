"""A lab for tests: several hosts with their daemons, as ``sandnet lab up`` makes it.

Each has a name of its own, below the temporary directory of its test, so that labs of several workers run beside each
other. Tests ask for ``new_lab`` and say what it is to have.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from typing import Protocol

import pytest

from sandnet.lab.lab_client import LabClient
from sandnet.lab.lab_directory import BASE_VARIABLE
from sandnet.lab.lab_messages import ChangeMember, CutNetwork, HealNetwork, HostStatus, ImpairHost, KillHost
from sandnet.prerequisites import has_program
from tests.support.daemon import JSON, SANDNET, Api, RefusedError
from tests.support.network_host import eventually, unavailable
from tests.support.time_limits import quick

COMMAND_SECONDS = 60.0
SLEEPER = "sleep 1234"
"""The command line of what only waits."""
LAST_LINES = 10
"""How many lines of each daemon's log a failure shows."""
LEASE = 15.0
"""Seconds of a host's lease: what a host without it had is free afterwards (docs/adr/0030)."""
BUSY = 60.0
"""Seconds to wait for what other hosts show: the machines of tests are shared, and stand still for seconds."""
REFUSAL = 5.0
"""Seconds in which a change is refused when the store does not take it: 1.5, and more for a busy machine."""
ECHO = 15
"""Seconds to wait for an ICMP echo where something answers. Most are answered at once."""
DOUBT = 1
"""Seconds to wait for an echo that nothing should answer."""
PATIENCE, INTERVAL = 20.0, 0.1
"""Seconds for which a patient client repeats a request, and from one attempt to the next."""
REPEATABLE = "the request can be repeated when the store answers again"
"""The hint of a command that was refused because the store did not answer in time."""
OUTCOME_UNKNOWN = "outcome_unknown"
PASSING = {"store_unavailable", "lease_ended", OUTCOME_UNKNOWN}
"""Codes of refusals that pass when the machine is less busy; their hints are to repeat the request."""


def refusal(change: Callable[[], object]) -> RefusedError:
    """The error with which a change is refused, in time."""

    def refused() -> RefusedError:
        with pytest.raises(RefusedError) as found:
            change()
        return found.value

    return quick(REFUSAL, refused)


class PatientApi(Api):
    """Repeats what is refused because the store did not answer in time: a machine may be busy for seconds.

    An attempt whose outcome is unknown may have been carried out. The next one shows that, by what it finds.
    """

    def _call(self, method: str, path: str, **how: JSON) -> JSON:
        end, is_unknown = time.monotonic() + PATIENCE, False
        while True:
            try:
                return super()._call(method, path, **how)
            except RefusedError as refused:
                if is_unknown and method == "DELETE" and refused.status == 404:
                    return None
                was_made = is_unknown and method == "POST" and refused.code == "name_taken"
                if was_made and (found := super()._call("GET", path, params={"name": how["json"]["name"]})):
                    return found[0]["id"]  # else it is in the store, and not on this host yet
                is_unknown = is_unknown or refused.code == OUTCOME_UNKNOWN
                if not (was_made or refused.code in PASSING) or time.monotonic() > end:
                    raise
            time.sleep(INTERVAL)


def echo(seconds: int) -> tuple[str, ...]:
    """The command that sends an ICMP echo each second until one is answered, or until the time is over."""
    return ("ping", "-c1", f"-w{seconds}", "-q")


class RunningLab:
    """A running lab; hosts are numbered from 1."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.control = LabClient(name)
        self._stack = stack
        """Closed at the end of the test: what it has opened on hosts."""
        self.containers: dict[int, str] = {}
        """By host: a container that a test has started there."""
        self.address = ""
        """An address that a test has asked for."""

    # On a host.

    def popen(self, number: int, *command: str) -> subprocess.Popen[str]:
        """Start a command on a host; it is killed at the end of the test."""
        with self.control.entry(number) as entry:
            kinds = ("pid", "net", "uts", "ipc", "mount")
            ways = [f"--{kind}=/proc/self/fd/{fd}" for kind, fd in zip(kinds, entry.namespaces, strict=True)]
            started = subprocess.Popen(
                ["nsenter", *ways, "--", "setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=entry.namespaces,
                env={**os.environ, "PATH": f"{SANDNET.parent}:{os.environ['PATH']}"},
            )
        self._stack.callback(_end, started)
        return started

    def run(self, number: int, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host until it ends."""
        started = self.popen(number, *command)
        out, err = started.communicate(timeout=COMMAND_SECONDS)
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def sh(self, number: int, *command: str) -> str:
        """The output of a command on a host.

        Raises:
            AssertionError: it failed; the message holds what it printed.
        """
        done = self.run(number, *command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def sandnet(self, number: int, *words: str) -> str:
        """The output of ``sandnet`` on a host; it is repeated while the store does not answer in time.

        Raises:
            AssertionError: it failed; the message holds what it printed.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self.sh(number, "sandnet", *words)
            except AssertionError as failure:
                if REPEATABLE not in str(failure) or time.monotonic() > end:
                    raise
            time.sleep(INTERVAL)

    def client(self, number: int, *, patient: bool = True) -> Api:
        """A client of the daemon on a host; it serves a new daemon too, but not a host that had no power meanwhile.

        A patient one repeats what is refused for a moment.
        """
        entry = self._stack.enter_context(self.control.entry(number))
        api = (PatientApi if patient else Api)(Path(f"/proc/self/fd/{entry.run}/sandnet/sandnet.sock"))
        self._stack.callback(api.http.close)
        return api

    def reaches(self, number: int, address: str, seconds: int = ECHO) -> bool:
        """Whether an ICMP echo from a host is answered; one is sent each second."""
        return self.run(number, *echo(seconds), "-n", address).returncode == 0

    def pings(self, number: int, name: str, seconds: int = ECHO) -> str:
        """The address that answers the container of a host by its name; empty: none does."""
        inside = ("sandnet", "sandbox", "exec", self.containers[number], "--")
        done = self.run(number, *inside, *echo(seconds), "-n", name)
        return done.stdout.partition("(")[2].partition(")")[0] if done.returncode == 0 else ""

    def start_sleeper(self, number: int, network: str, name: str) -> str:
        """Run a process on a host that only waits, as an endpoint of that name; its container."""
        return self.sandnet(number, "run", "-d", "--net", network, "--name", name, "--", *SLEEPER.split()).strip()

    def start_neighbours(self) -> None:
        """Make the network ``blue``, with ``web`` on host 1 and ``db`` on host 2, until they know each other."""
        self.client(1).network("blue", "overlay")
        self.wait_until(lambda: all(self.client(number).get("/networks", name="blue") for number in self.hosts))
        self.containers = {1: self.start_sleeper(1, "blue", "web"), 2: self.start_sleeper(2, "blue", "db")}
        self.wait_until(
            lambda: self.resolved(1, self.containers[1], "db") and self.resolved(2, self.containers[2], "web")
        )

    def resolved(self, number: int, container: str, name: str) -> list[str]:
        """The addresses that a container on a host gets from its name server for a name."""
        words = ("sandnet", "sandbox", "exec", container, "--", "dig", "+short", "+tries=1", "+time=10", name)
        done = self.run(number, *words)
        return done.stdout.split() if done.returncode == 0 else []

    # The lab.

    @property
    def hosts(self) -> range:
        """The numbers of the hosts."""
        return range(1, len(self.control.status().hosts) + 1)

    def host(self, number: int) -> HostStatus:
        """How a host is."""
        return self.control.status().hosts[number - 1]

    def log(self, number: int) -> str:
        """The log of the daemons of a host."""
        return Path(self.host(number).daemon_log).read_text()

    def leader(self) -> int:
        """The host of the leading member of etcd; 0: there is none, or it does not answer at once."""
        return next((host.number for host in self.control.status().hosts if host.store == "leader"), 0)

    def wait_for_leader(self) -> int:
        """The host of the leading member of etcd, once there is one."""
        found = 0

        def is_found() -> bool:
            nonlocal found
            found = self.leader()
            return found > 0

        self.wait_until(is_found, BUSY)
        return found

    def wait_until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until a condition is true. A failure in it, as of a command on a host, counts as false.

        Raises:
            AssertionError: it is not; the message has the last failure, and tells how the hosts are.
        """
        last = ""

        def holds() -> object:
            nonlocal last
            try:
                return condition()
            except AssertionError as failure:
                last = f"{failure}\n"
                return False

        try:
            eventually(holds, seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{last}{self._report()}") from failure

    def wait_until_passed(self, check: Callable[[], object], seconds: float = BUSY) -> None:
        """Repeat a check, which asserts something, until it passes.

        Raises:
            AssertionError: it does not; the message has its last failure, and tells how the hosts are.
        """

        def passes() -> bool:
            check()
            return True

        self.wait_until(passes, seconds)

    def wait_until_possible(self, change: Callable[[], object], seconds: float = 30.0) -> None:
        """Repeat a change until it is not refused. One whose answer was lost is done when its name is taken.

        Raises:
            AssertionError: it still is; the message has the refusals, and tells how the hosts are.
        """
        refused: dict[str, str] = {}

        def is_done() -> bool:
            try:
                change()
            except RefusedError as refusal:
                refused[refusal.code] = str(refusal)
                return {"outcome_unknown", "name_taken"} <= refused.keys()
            return True

        try:
            self.wait_until(is_done, seconds)
        except AssertionError as failure:
            raise AssertionError("\n".join([*refused.values(), str(failure)])) from failure

    def _report(self) -> str:
        lines = []
        for host in self.control.status().hosts:
            lines.append(f"{host.name}: daemon {host.daemon}, etcd {host.store}; the end of its log:")
            lines += Path(host.daemon_log).read_text().splitlines()[-LAST_LINES:]
        return "\n".join(lines)

    def partition(self, *groups: Sequence[int], store_only: bool = False) -> None:
        """Drop what hosts of different groups send each other."""
        pairs = [(a, b) for first, second in permutations(groups, 2) for a in first for b in second]
        self.control.request(CutNetwork(tuple(pairs), store_only))

    def cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Drop what the first host of each pair sends the second one."""
        self.control.request(CutNetwork(tuple(pairs), store_only=False))

    def heal(self) -> None:
        """Undo all partitions, delays and losses."""
        self.control.request(HealNetwork())

    def impair(self, number: int, *, delay: float | None = None, loss: float | None = None) -> None:
        """Delay (seconds) or lose (share) what a host sends and receives."""
        self.control.request(ImpairHost(number, delay, loss))

    def kill(self, number: int, *, power: bool = False, lose_state: bool = False) -> None:
        """SIGKILL for the daemon of a host, or for everything on it."""
        self.control.request(KillHost(number, power, lose_state))

    def start(self, number: int) -> None:
        """Start what does not run on a host, and wait until its daemon serves."""
        self.control.start_host(number)

    def member(self, number: int, action: str) -> None:
        """``start``, ``stop`` or ``kill`` the member of etcd on a host."""
        self.control.request(ChangeMember(number, action))


class LabFactory(Protocol):
    """What ``new_lab`` is."""

    def __call__(self, hosts: int = 3, *options: str) -> RunningLab:
        """Start a lab; the options are further ones of ``sandnet lab up``."""
        ...


def _end(process: subprocess.Popen[str]) -> None:
    """Kill what still runs: nsenter, and with it the command that it waits for."""
    if process.poll() is None:
        process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


def skip_unless_possible() -> None:
    """Skip the test where there can be no labs (it fails where ``CI`` is set)."""
    if reason := unavailable():
        pytest.skip(reason)
    if not has_program("etcd"):
        pytest.skip("etcd is not installed: apt-get install etcd-server")


@pytest.fixture
def lab_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the labs of this test are."""
    skip_unless_possible()
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path / "labs"))
    return tmp_path / "labs"


@contextmanager
def started_lab(directory: Path, hosts: int = 3, *options: str) -> Iterator[RunningLab]:
    """A lab with its files below a directory, for all tests of a module."""
    skip_unless_possible()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(BASE_VARIABLE, str(directory))
        done = lab_command("up", "--name", "common", "--hosts", str(hosts), *options)
        assert done.returncode == 0, done.stderr
        lab = RunningLab("common", stack)
        patch.undo()
        try:
            yield lab
        finally:  # no lab outlives what has failed in it
            patch.setenv(BASE_VARIABLE, str(directory))
            done = lab_command("down", "--name", "common")
            assert done.returncode == 0, done.stderr


def lab_command(*words: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run ``sandnet lab`` of the machine that the test is on."""
    return subprocess.run(
        [str(SANDNET), "lab", *words],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=seconds,
    )


@pytest.fixture
def new_lab(lab_directory: Path) -> Iterator[LabFactory]:
    """Starts labs, and removes them after the test."""
    with ExitStack() as stack:
        started: list[str] = []

        def start(hosts: int = 3, *options: str) -> RunningLab:
            name = f"lab{len(started)}"
            done = lab_command("up", "--name", name, "--hosts", str(hosts), *options)
            assert done.returncode == 0, done.stderr
            started.append(name)
            stack.callback(_remove, name)
            return RunningLab(name, stack)

        yield start


def _remove(name: str) -> None:
    if not LabClient(name).directory.exists():  # by the test
        return
    done = lab_command("down", "--name", name)
    assert done.returncode == 0, done.stderr
