"""How hosts reach each other, as ``sandnet node check`` and health tell it, in a laboratory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.daemon import JSON, RefusedError
from tests.support.lab import BUSY, RunningLab, started_lab
from tests.support.privileges import needs_taps
from tests.support.time_limits import quick

pytestmark = pytest.mark.timeout(400)
CHECK = 4.0
"""Seconds of a check on a busy machine: it ends after two by itself."""


@pytest.fixture(scope="module")
def common_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with started_lab(tmp_path_factory.mktemp("labs")) as lab:
        yield lab


@pytest.fixture
def lab(common_lab: RunningLab) -> Iterator[RunningLab]:
    """Three hosts with the network ``blue``, which reach each other."""
    lab = common_lab
    lab.client(1).network("blue", "overlay")
    lab.wait_until(lambda: all(networks(lab, number) == {"blue"} for number in lab.hosts), BUSY)
    lab.wait_until(lambda: all(not problems(lab, number) for number in lab.hosts), BUSY)
    yield lab
    lab.heal()
    lab.sh(2, "ip", "link", "set", "eth0", "mtu", "1500")
    lab.run(3, "nft", "delete", "table", "inet", "mine")
    for net in lab.client(1).get("/networks"):
        if net["type"] == "overlay":
            lab.wait_until(partial(removed, lab, net["name"]), BUSY)


def removed(lab: RunningLab, name: str) -> bool:
    try:
        lab.client(1).delete(f"/networks/{name}")
    except RefusedError as refused:
        return refused.status == 404
    return True


def created(lab: RunningLab, name: str) -> bool:
    try:
        lab.client(1).network(name, "overlay")
    except RefusedError as refused:
        return bool(refused.body["code"] == "name_taken")
    return True


def networks(lab: RunningLab, number: int) -> set[str]:
    return {net["name"] for net in lab.client(number).get("/networks") if net["type"] == "overlay"}


def found(lab: RunningLab, number: int, other: int) -> JSON:
    (answer,) = lab.client(number).get("/reachability", node=f"h{other}")
    return answer


def problems(lab: RunningLab, number: int) -> list[str]:
    """What the hosts say of the way to others, by health and by a check."""
    checked = [problem for each in lab.client(number).get("/reachability") for problem in each["problems"]]
    return [*checked, *in_health(lab, number)]


def in_health(lab: RunningLab, number: int) -> list[str]:
    return [each for each in lab.client(number).get("/healthz")["problems"] if each.startswith("host ")]


def answered_by_all_others(lab: RunningLab, number: int) -> None:
    answers = lab.client(number).get("/reachability")
    assert [each["name"] for each in answers] == [f"h{other}" for other in lab.hosts if other != number]
    for each in answers:
        assert (each["state"], each["vxlan"], each["reached"]) == ("alive", "answered", True)
        assert (each["path_mtu"], each["needed_mtu"]) == (1500, 1500)
        assert 0 < each["round_trip_ms"] < 1000
        assert abs(each["clock_ahead_ms"]) < 1000


def test_every_host_answers_every_other(lab: RunningLab) -> None:
    for number in lab.hosts:
        lab.wait_until_passed(lambda number=number: answered_by_all_others(lab, number))  # type: ignore[misc]

    def listed() -> None:
        out = lab.sandnet(1, "node", "check")
        assert [line.split()[:4] for line in out.splitlines()[1:]] == [
            ["h2", "alive", "10.200.0.2", "answered"],
            ["h3", "alive", "10.200.0.3", "answered"],
        ]

    lab.wait_until_passed(listed)
    assert json.loads(lab.sandnet(1, "node", "check", "--json", "h3"))[0]["name"] == "h3"


def test_unknown_host_is_refused_and_ones_own_is_none(lab: RunningLab) -> None:
    assert lab.client(1).get("/reachability", node="h1") == []
    with pytest.raises(RefusedError, match="h9") as refused:
        lab.client(1).get("/reachability", node="h9")
    assert refused.value.status == 404
    assert lab.run(1, "sandnet", "node", "check", "h9").returncode == 2


def test_smaller_path_is_found_to_the_byte_with_a_way_out(lab: RunningLab) -> None:
    lab.sh(2, "ip", "link", "set", "eth0", "mtu", "1403")

    def finds(number: int, other: int) -> None:
        answer = found(lab, number, other)
        assert (answer["vxlan"], answer["path_mtu"]) == ("answered", 1403)
        (problem,) = answer["problems"]
        assert problem.startswith("packets of 1403 bytes pass, and overlay networks send 1500:")
        assert problem.endswith("mtu=1353")

    def prints() -> None:
        checked = lab.run(1, "sandnet", "node", "check")
        assert checked.returncode == 1
        assert "h2: packets of 1403 bytes pass" in checked.stdout

    lab.wait_until_passed(lambda: finds(1, 2))
    lab.wait_until_passed(lambda: finds(2, 1))
    lab.wait_until(lambda: found(lab, 1, 3)["problems"] == [], BUSY)
    lab.wait_until_passed(prints)
    lab.wait_until(lambda: in_health(lab, 1), BUSY)
    assert [each.partition(":")[0] for each in in_health(lab, 1)] == ["host h2"]
    lab.sh(2, "ip", "link", "set", "eth0", "mtu", "1500")
    lab.wait_until(lambda: not in_health(lab, 1), BUSY)


def test_new_network_fits_the_smallest_known_path(lab: RunningLab) -> None:
    lab.sh(2, "ip", "link", "set", "eth0", "mtu", "1400")
    lab.wait_until(lambda: found(lab, 1, 2)["path_mtu"] == 1400, BUSY)
    lab.wait_until(lambda: created(lab, "green"), BUSY)  # connections of etcd to that host hang for a while
    bridges = json.loads(lab.sh(1, "ip", "-j", "link", "show", "type", "bridge"))
    assert {1450, 1350} <= {bridge["mtu"] for bridge in bridges}


def test_silent_host_is_distinguished_from_a_closed_port(lab: RunningLab) -> None:
    lab.partition([1], [2], [3])
    rules = "table inet mine { chain in { type filter hook input priority 10; udp dport 4789 drop; }; }"
    answer = quick(CHECK, lambda: found(lab, 1, 2))
    assert (answer["vxlan"], answer["reached"], answer["path_mtu"]) == ("silent", False, None)
    assert answer["problems"][-1].startswith("nothing comes back from its address")
    lab.heal()
    lab.sh(3, "nft", rules)

    def is_closed() -> None:
        answer = found(lab, 1, 3)
        assert (answer["vxlan"], answer["reached"]) == ("silent", True)
        assert answer["problems"][-1].startswith("it is there, but does not answer at UDP port 4789")

    lab.wait_until_passed(is_closed)
    lab.wait_until(lambda: any("h3" in each for each in in_health(lab, 1)), BUSY)


@needs_taps
def test_delay_is_in_the_round_trip_and_not_in_the_clock(lab: RunningLab) -> None:
    lab.impair(3, delay=0.05)

    def is_delayed() -> None:
        answer = found(lab, 1, 3)
        assert answer["vxlan"] == "answered"
        assert 100 <= answer["round_trip_ms"] < 1000
        assert abs(answer["clock_ahead_ms"]) < 60
        assert answer["path_mtu"] == 1500
        assert answer["problems"] == []

    lab.wait_until_passed(is_delayed)


def test_host_without_a_daemon_does_not_answer(lab: RunningLab) -> None:
    lab.kill(3)

    def is_silent() -> None:
        answer = found(lab, 1, 3)
        assert answer["vxlan"] in ("silent", "refused")
        assert answer["reached"]

    lab.wait_until_passed(is_silent)
    lab.start(3)
    lab.wait_until(lambda: found(lab, 1, 3)["vxlan"] == "answered", BUSY)
