"""Changes whose request or answer is lost between a daemon and etcd: each is done or not done, on all hosts.

All tests share a lab. The daemon of host 3 reaches etcd by a wire that loses what it is told to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.daemon import Api, RefusedError
from tests.support.etcd_wire import Orders
from tests.support.lab import BUSY, LEASE, RunningLab, started_lab
from tests.support.lab_truth import Truth

pytestmark = pytest.mark.timeout(400)
ANSWER = 20.0
"""Seconds of an answer: a request, the fencing number and a read have 1.5 each; the others are for a busy machine."""
PORT = 2399
TOP = Path(__file__).parents[2]


class Wired(NamedTuple):
    """A lab whose third host has the wire."""

    lab: RunningLab
    orders: Orders

    @property
    def api(self) -> Api:
        """The client of host 3; it sees each refusal."""
        return self.lab.client(3, patient=False)

    def lose(self, what: str, count: int) -> None:
        """Lose the next transactions, in that way."""
        self.orders.lost.unlink(missing_ok=True)
        self.orders.file.write_text(f"{what} {count}")

    def lost(self) -> int:
        """How many were lost, of which there are no more from now on."""
        self.orders.file.unlink()
        return len(self.orders.lost.read_text().splitlines()) if self.orders.lost.exists() else 0


@pytest.fixture(scope="module")
def wired_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    folder = tmp_path_factory.mktemp("labs")
    with started_lab(folder) as lab:
        lab.kill(3)
        orders = Orders(folder / "orders")
        wire = ("env", f"PYTHONPATH={TOP}", sys.executable, "-m", "tests.support.etcd_wire")
        lab.popen(3, *wire, str(PORT), "10.200.0.1:2379", str(orders.file))
        lab.wait_until(lambda: f"127.0.0.1:{PORT}" in lab.sh(3, "ss", "-ltn"))
        daemon = ("sandnet", "daemon", f"--store=etcd://127.0.0.1:{PORT}/sandnet", "--underlay=10.200.0.3")
        lab.popen(3, "sh", "-c", 'exec "$@" >/var/lib/sandnet/wired.log 2>&1', "sh", *daemon)
        lab.wait_until(lambda: lab.run(3, "sandnet", "status").returncode == 0, BUSY)
        yield Wired(lab, orders)


@pytest.fixture
def wired(wired_lab: Wired) -> Iterator[Wired]:
    """Host 3 with the network ``blue``, in which container ``here`` has ``web`` and nothing has ``db``; ``red`` is
    empty. Afterwards all hosts are as the store has it."""
    lab = wired_lab.lab
    api = lab.client(3)
    for name in ("blue", "red"):
        api.network(name, "overlay")
    for name in ("web", "db"):
        api.endpoint("blue", name)
    api.join("blue", "web", "here")
    yield wired_lab
    wired_lab.orders.file.unlink(missing_ok=True)
    lab.wait_until_possible(lambda: api.network("last", "overlay"), BUSY)
    lab.wait_until(lambda: not Truth(lab).faults(), LEASE + BUSY)
    for number in lab.hosts:
        lab.wait_until(lambda number=number: "nothing differs" in lab.sandnet(number, "doctor"), BUSY)  # type: ignore[misc]
    lab.wait_until_possible(api.clear, BUSY)
    lab.wait_until(lambda: not Truth(lab).networks, BUSY)


def networks(lab: RunningLab, number: int) -> set[str]:
    return {each["name"] for each in lab.client(number).get("/networks")}


def endpoints(lab: RunningLab, number: int) -> set[str]:
    return {each["name"] for each in lab.client(number).get("/networks/blue/endpoints")}


def containers(lab: RunningLab, number: int, endpoint: str) -> set[str]:
    found = lab.client(number).get(f"/networks/blue/endpoints/{endpoint}", verbose="true")
    return {each["id"] for each in found["backends"]}


class Change(NamedTuple):
    """A change, and what shows on a host whether it was made."""

    make: Callable[[Api], object]
    is_made: Callable[[RunningLab, int], bool]
    repeated: str
    """The code with which it is refused when it was made before; empty: it is not."""


CHANGES = {
    "network": Change(lambda a: a.network("green", "overlay"), lambda n, h: "green" in networks(n, h), "name_taken"),
    "endpoint": Change(lambda a: a.endpoint("blue", "new"), lambda n, h: "new" in endpoints(n, h), "name_taken"),
    "join": Change(lambda a: a.join("blue", "db", "c1"), lambda n, h: "c1" in containers(n, h, "db"), "already_joined"),
    "leave": Change(lambda a: a.leave("blue", "web", "here"), lambda n, h: not containers(n, h, "web"), "not_attached"),
    "endpoint-deletion": Change(
        lambda a: a.delete("/networks/blue/endpoints/db"),
        lambda n, h: "db" not in endpoints(n, h),
        "endpoint_not_found",
    ),
    "network-deletion": Change(
        lambda a: a.delete("/networks/red"), lambda n, h: "red" not in networks(n, h), "network_not_found"
    ),
}


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest) -> Change:
    return CHANGES[request.param]


def outcome(wired: Wired, change: Change) -> str:
    """How a change is answered, in time: empty: it is made."""
    began = time.monotonic()
    try:
        change.make(wired.api)
    except RefusedError as refused:
        return str(refused.body["code"])
    finally:
        assert time.monotonic() - began < ANSWER
    return ""


def is_everywhere(wired: Wired, change: Change) -> None:
    """Wait until all hosts show that the change was made."""
    for number in wired.lab.hosts:
        wired.lab.wait_until(lambda number=number: change.is_made(wired.lab, number), BUSY)  # type: ignore[misc]


@pytest.mark.parametrize("what", ["answer", "silence"])
def test_change_whose_answer_is_lost_is_found_to_be_made(wired: Wired, change: Change, what: str) -> None:
    wired.lose(what, 1)
    assert outcome(wired, change) == ""
    assert wired.lost() == 1
    is_everywhere(wired, change)
    assert outcome(wired, change) == change.repeated


def test_repeated_change_whose_request_was_lost_is_made(wired: Wired, change: Change) -> None:
    wired.lose("request", 1)
    first = outcome(wired, change)
    assert wired.lost() == 1
    assert first in ("", "store_unavailable")  # a release needs no answer
    assert outcome(wired, change) in ("", change.repeated if not first else "")
    is_everywhere(wired, change)


@pytest.mark.parametrize("what", ["answer", "request"])
def test_repeated_change_of_unknown_outcome_is_made_once(wired: Wired, change: Change, what: str) -> None:
    """Even the look for its outcome gets no answer; the client repeats until it is answered."""
    wired.lose(what, 1000)
    first = outcome(wired, change)
    assert wired.lost() > 1
    assert first in ("", "outcome_unknown", "store_unavailable")
    wired.lab.wait_until(lambda: outcome(wired, change) in ("", change.repeated), BUSY)
    is_everywhere(wired, change)
