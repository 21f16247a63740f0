"""When what cannot be repaired, or does not stay so, is tried again; and what is told of it."""

from __future__ import annotations

import pytest

from sandnet.core.reconcile.backoff import FIRST, LONGEST, OFTEN, QUIET, SHORT, Failing
from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.scanner import Suspects
from sandnet.model import Network, Phase

NET = Network(id="0" * 64, name="foo", driver="bridge", phase=Phase.READY, sequence=1, created=0.0)
ONE = Suspects([NET.id])
REFUSED = "not repaired: the disk is full"


class Clock:
    """Goes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failing(clock: Clock) -> Failing:
    return Failing(clock)


def drift(done: str) -> Drift:
    return Drift("network", "foo", "bridge snb0 is down", "why", done, NET)


def owners(suspects: Suspects) -> list[str]:
    return suspects.owners()


def war(failing: Failing, clock: Clock) -> None:
    """Somebody undoes repairs as quickly as they come."""
    for _ in range(OFTEN + 1):
        failing.judge(ONE, [drift(REPAIRED)])
        clock.now += 0.25


def test_given_nothing_wrong_when_asked_then_nothing_waits(failing: Failing) -> None:
    failing.judge(ONE, [])
    assert owners(failing.patient(ONE)) == owners(ONE)
    assert not failing.due()
    assert failing.problems == []


def test_given_a_failure_when_its_time_has_not_come_then_it_waits_and_is_told(failing: Failing, clock: Clock) -> None:
    failing.judge(ONE, [drift(REFUSED)])
    assert failing.problems == [f"network foo: bridge snb0 is down ({REFUSED})"]
    assert not failing.patient(ONE)
    assert not failing.due()
    clock.now += FIRST
    assert owners(failing.due()) == owners(failing.patient(ONE)) == owners(ONE)


def test_given_failures_in_a_row_when_waiting_then_the_waits_double_up_to_the_longest(
    failing: Failing, clock: Clock
) -> None:
    waits = []
    for _ in range(9):
        failing.judge(ONE, [drift(REFUSED)])
        waits.append(0.0)
        while not failing.due():
            clock.now += 0.5
            waits[-1] += 0.5
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST]


def test_given_a_failure_when_it_is_well_again_then_it_is_forgotten(failing: Failing, clock: Clock) -> None:
    failing.judge(ONE, [drift(REFUSED)])
    clock.now += FIRST
    failing.judge(ONE, [])
    assert failing.problems == []
    failing.judge(ONE, [drift(REFUSED)])
    clock.now += FIRST  # as the first time
    assert failing.due()


def test_given_a_failure_when_others_are_suspects_then_they_do_not_wait(failing: Failing) -> None:
    failing.judge(Suspects(parameters=True, rules=True), [Drift("parameter", "ip_forward", "changed", "why", REFUSED)])
    assert owners(failing.patient(Suspects([NET.id], ["c1"], rules=True, parameters=True, strays=True))) == [
        f"network/{NET.id}",
        "sandbox/c1",
        "rules",
        "strays",
    ]


def test_given_a_failure_when_its_object_is_gone_then_it_is_forgotten(failing: Failing, clock: Clock) -> None:
    failing.judge(ONE, [drift(REFUSED)])
    failing.forget(lambda one: NET.id in one.networks)
    clock.now += LONGEST
    assert not failing.due()
    assert failing.problems == []


def test_given_a_failure_when_asked_why_then_the_code_of_its_last_refusal(failing: Failing) -> None:
    owner = f"network/{NET.id}"
    assert not failing.knows(owner, "gone")
    failing.judge(ONE, [drift(REFUSED)._replace(code="gone")])
    assert failing.knows(owner, "gone")
    assert not failing.knows(owner, "")


def test_given_a_few_repairs_when_broken_again_then_it_is_repaired_at_once(failing: Failing, clock: Clock) -> None:
    for _ in range(OFTEN):
        failing.judge(ONE, [drift(REPAIRED)])
        clock.now += 0.25
    assert owners(failing.patient(ONE)) == owners(ONE)
    assert failing.problems == []


def test_given_many_repairs_far_apart_when_broken_again_then_it_is_repaired_at_once(
    failing: Failing, clock: Clock
) -> None:
    for _ in range(OFTEN * 10):
        failing.judge(ONE, [drift(REPAIRED)])
        clock.now += SHORT / OFTEN
    assert owners(failing.patient(ONE)) == owners(ONE)
    assert failing.problems == []


def test_given_a_war_when_it_goes_on_then_the_waits_double_up_to_the_longest_and_it_is_told(
    failing: Failing, clock: Clock
) -> None:
    war(failing, clock)
    assert failing.problems == [
        f"network foo has been repaired {OFTEN + 1} times in the last minute; somebody undoes it (bridge snb0 is down),"
        " and the next repair waits 1 s"
    ]
    waits: list[float] = []
    clock.now -= 0.25
    for _ in range(9):
        waits.append(0.0)
        while not failing.due():
            assert not failing.patient(ONE)
            clock.now += 0.5
            waits[-1] += 0.5
        failing.judge(ONE, [drift(REPAIRED)])
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST]
    assert "has been repaired 15 times in the last 5 minutes" in failing.problems[0]


def test_given_a_war_when_nothing_is_wrong_after_the_wait_then_it_is_told_until_it_was_quiet_for_long(
    failing: Failing, clock: Clock
) -> None:
    war(failing, clock)
    clock.now += FIRST
    assert failing.due()
    failing.judge(ONE, [])
    assert not failing.due(), "once looked at is enough"
    assert owners(failing.patient(ONE)) == owners(ONE), "the next harm need not wait"
    assert failing.problems
    clock.now += QUIET
    failing.forget(lambda _: False)
    assert failing.problems == []
    failing.judge(ONE, [drift(REPAIRED)])
    assert owners(failing.patient(ONE)) == owners(ONE)


def test_given_a_war_when_others_ask_for_repairs_amid_the_wait_then_they_count_and_it_grows_no_longer(
    failing: Failing, clock: Clock
) -> None:
    war(failing, clock)
    for _ in range(9):
        failing.judge(ONE, [drift(REPAIRED)])
    clock.now += FIRST
    assert failing.due()
    assert f"repaired {OFTEN + 10} times" in failing.problems[0]


def test_given_a_war_when_its_object_is_gone_then_it_is_forgotten(failing: Failing, clock: Clock) -> None:
    war(failing, clock)
    failing.forget(lambda one: NET.id in one.networks)
    assert failing.problems == []


def test_given_a_war_when_a_repair_fails_then_the_failure_is_told_alone(failing: Failing, clock: Clock) -> None:
    war(failing, clock)
    failing.judge(ONE, [drift(REFUSED)])
    assert failing.problems == [f"network foo: bridge snb0 is down ({REFUSED})"]


def test_given_a_war_when_harm_comes_after_somebody_looked_amid_the_wait_then_it_is_looked_at_when_it_ends(
    failing: Failing, clock: Clock
) -> None:
    war(failing, clock)
    failing.judge(ONE, [])
    assert not failing.patient(ONE)
    clock.now += FIRST
    assert owners(failing.due()) == owners(ONE)
