"""When what cannot be repaired, or does not stay so, is tried again; and what is reported of it."""

from __future__ import annotations

import pytest

from sandnet.core.reconcile.backoff import FIRST_DELAY, LONGEST_DELAY, MAX_REPAIRS, RESET_AFTER, WINDOW, RepairBackoff
from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.scanner import Candidates
from sandnet.model import Network, Phase

NET = Network(id="0" * 64, name="foo", driver="bridge", phase=Phase.READY, sequence=1, created=0.0)
ONE = Candidates([NET.id])
REFUSED = "not repaired: the disk is full"


class Clock:
    """Goes when reported to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failing(clock: Clock) -> RepairBackoff:
    return RepairBackoff(clock)


def drift(done: str) -> Drift:
    return Drift("network", "foo", "bridge snb0 is down", "why", done, NET)


def owners(candidates: Candidates) -> list[str]:
    return candidates.owners()


def war(failing: RepairBackoff, clock: Clock) -> None:
    """Another program undoes repairs as quickly as they come."""
    for _ in range(MAX_REPAIRS + 1):
        failing.record(ONE, [drift(REPAIRED)])
        clock.now += 0.25


def test_no_drift_means_no_delay(failing: RepairBackoff) -> None:
    failing.record(ONE, [])
    assert owners(failing.ready(ONE)) == owners(ONE)
    assert not failing.due()
    assert failing.problems == []


def test_failed_repair_is_delayed_and_reported(failing: RepairBackoff, clock: Clock) -> None:
    failing.record(ONE, [drift(REFUSED)])
    assert failing.problems == [f"network foo: bridge snb0 is down ({REFUSED})"]
    assert not failing.ready(ONE)
    assert not failing.due()
    clock.now += FIRST_DELAY
    assert owners(failing.due()) == owners(failing.ready(ONE)) == owners(ONE)


def test_repeated_failures_double_the_delay_up_to_the_maximum(failing: RepairBackoff, clock: Clock) -> None:
    waits = []
    for _ in range(9):
        failing.record(ONE, [drift(REFUSED)])
        waits.append(0.0)
        while not failing.due():
            clock.now += 0.5
            waits[-1] += 0.5
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]


def test_success_resets_the_failure_delay(failing: RepairBackoff, clock: Clock) -> None:
    failing.record(ONE, [drift(REFUSED)])
    clock.now += FIRST_DELAY
    failing.record(ONE, [])
    assert failing.problems == []
    failing.record(ONE, [drift(REFUSED)])
    clock.now += FIRST_DELAY  # as the first time
    assert failing.due()


def test_failure_does_not_delay_other_candidates(failing: RepairBackoff) -> None:
    failing.record(
        Candidates(parameters=True, rules=True), [Drift("parameter", "ip_forward", "changed", "why", REFUSED)]
    )
    assert owners(failing.ready(Candidates([NET.id], ["c1"], rules=True, parameters=True, orphans=True))) == [
        f"network/{NET.id}",
        "sandbox/c1",
        "rules",
        "strays",
    ]


def test_failure_is_forgotten_with_its_object(failing: RepairBackoff, clock: Clock) -> None:
    failing.record(ONE, [drift(REFUSED)])
    failing.forget(lambda one: NET.id in one.networks)
    clock.now += LONGEST_DELAY
    assert not failing.due()
    assert failing.problems == []


def test_failure_keeps_the_code_of_its_last_refusal(failing: RepairBackoff) -> None:
    owner = f"network/{NET.id}"
    assert not failing.knows(owner, "gone")
    failing.record(ONE, [drift(REFUSED)._replace(code="gone")])
    assert failing.knows(owner, "gone")
    assert not failing.knows(owner, "")


def test_few_repairs_cause_no_delay(failing: RepairBackoff, clock: Clock) -> None:
    for _ in range(MAX_REPAIRS):
        failing.record(ONE, [drift(REPAIRED)])
        clock.now += 0.25
    assert owners(failing.ready(ONE)) == owners(ONE)
    assert failing.problems == []


def test_many_repairs_far_apart_cause_no_delay(failing: RepairBackoff, clock: Clock) -> None:
    for _ in range(MAX_REPAIRS * 10):
        failing.record(ONE, [drift(REPAIRED)])
        clock.now += WINDOW / MAX_REPAIRS
    assert owners(failing.ready(ONE)) == owners(ONE)
    assert failing.problems == []


def test_repair_loop_doubles_the_delay_up_to_the_maximum(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    assert failing.problems == [
        f"network foo has been repaired {MAX_REPAIRS + 1} times in the last minute; "
        "another program undoes it (bridge snb0 is down),"
        " and the next repair waits 1 s"
    ]
    waits: list[float] = []
    clock.now -= 0.25
    for _ in range(9):
        waits.append(0.0)
        while not failing.due():
            assert not failing.ready(ONE)
            clock.now += 0.5
            waits[-1] += 0.5
        failing.record(ONE, [drift(REPAIRED)])
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]
    assert "has been repaired 15 times in the last 5 minutes" in failing.problems[0]


def test_repair_loop_is_reported_until_quiet_for_long(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    clock.now += FIRST_DELAY
    assert failing.due()
    failing.record(ONE, [])
    assert not failing.due(), "once looked at is enough"
    assert owners(failing.ready(ONE)) == owners(ONE), "the next harm need not wait"
    assert failing.problems
    clock.now += RESET_AFTER
    failing.forget(lambda _: False)
    assert failing.problems == []
    failing.record(ONE, [drift(REPAIRED)])
    assert owners(failing.ready(ONE)) == owners(ONE)


def test_repairs_on_request_count_but_do_not_lengthen_the_delay(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    for _ in range(9):
        failing.record(ONE, [drift(REPAIRED)])
    clock.now += FIRST_DELAY
    assert failing.due()
    assert f"repaired {MAX_REPAIRS + 10} times" in failing.problems[0]


def test_repair_loop_is_forgotten_with_its_object(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    failing.forget(lambda one: NET.id in one.networks)
    assert failing.problems == []


def test_failed_repair_in_a_loop_reports_only_the_failure(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    failing.record(ONE, [drift(REFUSED)])
    assert failing.problems == [f"network foo: bridge snb0 is down ({REFUSED})"]


def test_drift_after_a_clean_scan_in_the_delay_is_due_at_its_end(failing: RepairBackoff, clock: Clock) -> None:
    war(failing, clock)
    failing.record(ONE, [])
    assert not failing.ready(ONE)
    clock.now += FIRST_DELAY
    assert owners(failing.due()) == owners(ONE)
