"""A host that comes back late, or with an earlier state: it takes what the store has, and disturbs no one.

Each test has a lab of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import BUSY, LEASE, SLEEPER, LabFactory, RunningLab, lab_directory, new_lab
from tests.support.time_limits import quick

__all__ = ["lab_directory", "new_lab"]

pytestmark = pytest.mark.timeout(400)
QUICK = 4.0
"""Seconds of a request beside much work: 2, and as many for a busy machine."""
LIMITS = {"egress_rate": 1_000_000}
"""Limits of an endpoint's traffic."""


@pytest.fixture
def lab(new_lab: LabFactory) -> RunningLab:
    """Three hosts with the network ``blue``, and ``web`` on host 1, ``db`` and ``cache`` on host 2."""
    lab = new_lab(3)
    lab.start_neighbours()
    lab.start_sleeper(2, "blue", "cache")
    lab.wait_until(lambda: {"web", "db", "cache"} <= endpoints(lab, 1).keys())
    return lab


def endpoints(lab: RunningLab, number: int) -> dict[str, dict[str, Any]]:
    """The endpoints of ``blue`` that a host lists, by name."""
    found = lab.client(number).get("/networks/blue/endpoints", verbose="true")
    return {each["name"]: each for each in found}


def address(endpoint: dict[str, Any]) -> str:
    """The IPv4 address of an endpoint."""
    return str(endpoint["address"]).partition("/")[0]


def forwards(lab: RunningLab, number: int, endpoint: dict[str, Any]) -> set[str]:
    """The hosts to which the kernel of a host sends frames for the address of an endpoint."""
    neighbours = lab.sh(number, "ip", "neigh", "show", "nud", "permanent").splitlines()
    macs = {line.split()[4] for line in neighbours if line.startswith(f"{address(endpoint)} ")}
    entries = [line.split() for line in lab.sh(number, "bridge", "fdb", "show").splitlines()]
    return {words[words.index("dst") + 1] for words in entries if words[0] in macs and "dst" in words}


def cut_off(lab: RunningLab) -> None:
    """Let nothing pass between host 2 and the others."""
    lab.partition([2], [1, 3])


def kill_daemon(lab: RunningLab) -> None:
    """Kill the daemon of host 2; its containers go on."""
    lab.kill(2)


def kill_power(lab: RunningLab) -> None:
    """End everything on host 2."""
    lab.kill(2, power=True)


def come_back(lab: RunningLab) -> None:
    """Undo each of them."""
    lab.heal()
    lab.start(2)


class TestEndedLease:
    """What host 2 had is given to others, and then it is back."""

    @pytest.mark.parametrize("absence", [cut_off, kill_daemon, kill_power])
    def test_address_that_was_given_away_stays_there(
        self, lab: RunningLab, absence: Callable[[RunningLab], None]
    ) -> None:
        db = endpoints(lab, 1)["db"]
        absence(lab)
        lab.wait_until(lambda: "db" not in endpoints(lab, 3), LEASE + BUSY)
        lab.client(3).endpoint("blue", "db", address=address(db))
        lab.client(3).join("blue", "db", "taker")
        lab.wait_until(lambda: lab.pings(1, "db") == address(db), BUSY)
        assert forwards(lab, 1, db) == {"10.200.0.3"}

        come_back(lab)
        lab.wait_until(lambda: lab.client(3).get("/nodes/h2")["state"] == "alive", BUSY)
        taken = endpoints(lab, 3)["db"]["id"]
        lab.wait_until(lambda: endpoints(lab, 2).get("db", {}).get("id") == taken, BUSY)
        assert lab.pings(1, "db") == address(db)
        assert forwards(lab, 1, db) == forwards(lab, 2, endpoints(lab, 3)["db"]) == {"10.200.0.3"}
        if absence is kill_power:
            assert "cache" not in endpoints(lab, 2)
        else:  # its containers have gone on: the one whose place was taken has lost it, and the other one has it again
            lab.wait_until(lambda: lab.pings(1, "cache"), BUSY)
            containers = {each["id"] for each in lab.client(2).get("/sandboxes")}
            assert lab.containers[2] not in containers
            assert f"container {lab.containers[2]} loses its endpoint" in lab.log(2)
            assert lab.sh(2, "pgrep", "-fc", f"^{SLEEPER}").strip() == "2"
        # A connection of before may take a while to carry on.
        lab.wait_until_possible(lambda: lab.client(2).endpoint("blue", "back"), BUSY)
        lab.containers[2] = lab.start_sleeper(2, "blue", "new")
        lab.wait_until(lambda: lab.pings(1, "new") and lab.pings(2, "db"), BUSY)


def restore(copy: Path, state: Path) -> None:
    """Replace what is in a directory, which a host may have mounted, by the copy."""
    for path in state.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(copy, state, symlinks=True, dirs_exist_ok=True)


class TestOldState:
    """Host 2 comes back with a copy of its state that was made before much had changed."""

    @pytest.fixture
    def changed(self, lab: RunningLab) -> Path:
        """The lab after changes since the copy, which is returned."""
        lab.client(2).network("red", "overlay")
        lab.client(2).endpoint("blue", "kept")
        lab.client(2).endpoint("blue", "deleted")
        lab.kill(2)
        state = Path(lab.host(2).daemon_log).parent / "state"
        copy = state.with_name("copy")
        shutil.copytree(state, copy, symlinks=True)
        lab.start(2)
        lab.wait_until_possible(lambda: lab.client(2).endpoint("blue", "newer"), BUSY)
        lab.client(2).patch("/networks/blue/endpoints/kept", bandwidth=LIMITS)
        lab.start_sleeper(2, "blue", "later")
        lab.wait_until(lambda: {"deleted", "later"} <= endpoints(lab, 1).keys(), BUSY)
        lab.client(1).delete("/networks/red")
        lab.client(1).delete("/networks/blue/endpoints/deleted")
        lab.client(1).network("green", "overlay")
        lab.wait_until(lambda: lab.client(2).get("/networks", name="green"), BUSY)
        return copy

    @pytest.mark.parametrize("power", [True, False], ids=["machine", "daemon"])
    def test_host_takes_what_the_store_has(self, lab: RunningLab, changed: Path, power: bool) -> None:
        before = endpoints(lab, 1)
        lab.kill(2, power=power)
        restore(changed, changed.with_name("state"))
        lab.start(2)
        lab.wait_until(lambda: lab.client(2).get("/networks", name="green"), BUSY)
        lab.wait_until(lambda: not lab.client(2).get("/networks", name="red"), BUSY)
        gone = {"later", "db", "cache"} if power else {"later"}
        lab.wait_until(lambda: endpoints(lab, 2).keys() == before.keys() - gone, LEASE + BUSY)
        lab.wait_until(lambda: endpoints(lab, 1).keys() == before.keys() - gone, LEASE + BUSY)
        assert not lab.client(1).get("/networks", name="red")
        for number in lab.hosts:
            assert endpoints(lab, number)["kept"]["bandwidth"] == LIMITS
        if power:
            lab.containers[2] = lab.start_sleeper(2, "blue", "db")
        lab.wait_until(lambda: lab.pings(1, "db") and lab.pings(2, "web"), BUSY)
        links = lab.sh(2, "ip", "-br", "link", "show", "type", "bridge")
        assert links.count("snb") == 1 + 2, links


STALE = 1000
"""Endpoints of a host that never returns."""


class TestNeverReturning:
    def test_thousand_stale_records_hinder_no_one_and_are_removed(self, lab: RunningLab) -> None:
        pid = int(lab.sh(2, "pgrep", "-of", f"^{SLEEPER}"))
        api = lab.client(2)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: api.endpoint("stale", f"s{number}", watch_pid=pid), range(STALE)))
        lab.wait_until(lambda: len(lab.client(1).get("/networks/stale/endpoints")) == STALE, BUSY)
        lab.kill(2, power=True)
        for number in (1, 3):
            lab.wait_until(lambda n=number: not lab.client(n).get("/networks/stale/endpoints"), LEASE + BUSY)  # type: ignore[misc]

        again = (f"s{number}" for number in range(STALE))
        quick(QUICK, lambda: lab.client(3).endpoint("stale", next(again)))
        reused = len(lab.client(3).get("/networks/stale/endpoints"))
        lab.containers[3] = lab.start_sleeper(3, "blue", "db")
        lab.wait_until(lambda: lab.pings(1, "db"), BUSY)
        assert lab.client(1).get("/nodes/h2")["endpoints"] >= STALE - reused

        with ThreadPoolExecutor(1) as pool:
            removal = pool.submit(lab.sandnet, 1, "node", "rm", "h2")
            while not removal.done():
                quick(QUICK, lambda: self.use(lab))
            removal.result()
        lab.wait_until(lambda: [node["name"] for node in lab.client(3).get("/nodes")] == ["h1", "h3"], BUSY)
        keys = lab.sh(1, "etcdctl", "--endpoints=10.200.0.1:2379", "get", "--prefix", "/sandnet/", "--keys-only")
        assert "/h2" not in keys
        assert keys.count("/sandnet/endpoint/") == len({"web", "db"}) + reused
        assert len(re.findall("/sandnet/claim/(name|address|mac)/", keys)) <= 3 * (3 + reused)

    @pytest.fixture
    def lab(self, lab: RunningLab) -> RunningLab:
        """The lab with a network that has room for them."""
        lab.client(1).network("stale", "overlay", subnet="10.60.0.0/16")
        lab.wait_until(lambda: all(lab.client(number).get("/networks", name="stale") for number in lab.hosts), BUSY)
        return lab

    @staticmethod
    def use(lab: RunningLab) -> None:
        """Ask the other hosts for something, and change something there."""
        lab.client(3).get("/networks")
        lab.client(1).endpoint("blue", "probe")
        lab.client(1).delete("/networks/blue/endpoints/probe")
