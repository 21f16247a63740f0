"""Two hosts that share a store, in every order of their steps: the protocol of ADR 0030 before it is built.

Each rule of the protocol is also left out once: a model that then finds no fault would prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.model import attachment_model, creation_model, subnet_model
from tests.model.attachment_model import State
from tests.model.creation_model import Wanted
from tests.model.explore import ViolationError, explore
from tests.model.subnet_model import BOTH, HIGH, LOW, Subnet

ANY = Wanted("web")
ANOTHER = Wanted("db")
FIXED = Wanted("web", 2)
FIXED_TOO = Wanted("db", 2)
DELETION = Wanted()


@pytest.mark.parametrize(
    "state",
    [
        State(timeouts=2, expiries=0, crashes=0, repeats=1),
        State(timeouts=1, expiries=1, crashes=0),
        State(timeouts=0, expiries=1, crashes=0, repeats=1),
        State(timeouts=1, expiries=0, crashes=1),
        State(timeouts=0, expiries=1, crashes=1),
    ],
    ids=["late requests", "late and no lease", "no lease, twice", "late and killed", "no lease and killed"],
)
def test_endpoint_is_attached_on_one_host_at_most(state: State) -> None:
    model = attachment_model.Model(attachment_model.Rules())
    assert explore(state, model.steps, model.always, model.at_rest).at_rest > 1


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ("fences", State(timeouts=1, expiries=0, crashes=0)),
        ("undoes", State(timeouts=2, expiries=0, crashes=0)),
        ("compares_holder", State(timeouts=0, expiries=0, crashes=0)),
        ("compares_lease", State(timeouts=1, expiries=1, crashes=0, repeats=1)),
        ("compares_request", State(timeouts=1, expiries=0, crashes=0, repeats=1)),
        ("keeps_lease", State(timeouts=0, expiries=0, crashes=1)),
        ("claims_again", State(timeouts=0, expiries=1, crashes=0)),
    ],
)
def test_attachments_need_each_rule_of_the_protocol(rule: str, state: State) -> None:
    model = attachment_model.Model(attachment_model.Rules()._replace(**{rule: False}))
    with pytest.raises(ViolationError):
        explore(state, model.steps, model.always, model.at_rest)


def test_each_rule_of_attachments_is_left_out_once() -> None:
    assert len(attachment_model.Rules._fields) == 7


@pytest.mark.parametrize(
    "wanted",
    [(ANY, ANY), (ANY, ANOTHER), (FIXED, FIXED_TOO), (ANY, FIXED_TOO), (ANY, DELETION), (DELETION, DELETION)],
    ids=["one name", "two names", "one address", "any and a fixed address", "creation and deletion", "two deletions"],
)
def test_creations_of_two_hosts_never_collide(wanted: tuple[Wanted, Wanted]) -> None:
    model = creation_model.Model(creation_model.Rules())
    state = creation_model.State((creation_model.Host(wanted[0]), creation_model.Host(wanted[1])), repeats=1)
    assert explore(state, model.steps, model.always, model.at_rest).at_rest > 1


@pytest.mark.parametrize("rule", creation_model.Rules._fields)
def test_creations_need_each_rule_of_the_protocol(rule: str) -> None:
    with pytest.raises(ViolationError):
        _explore_pairs(creation_model.Rules()._replace(**{rule: False}))


def _explore_pairs(rules: creation_model.Rules) -> None:
    model = creation_model.Model(rules)
    for wanted in ((ANY, ANOTHER), (ANY, DELETION), (DELETION, ANY)):
        state = creation_model.State(
            (creation_model.Host(wanted[0]), creation_model.Host(wanted[1])), timeouts=3, repeats=1
        )
        explore(state, model.steps, model.always, model.at_rest)


OVERLAPPING: tuple[tuple[tuple[Subnet, ...], ...], ...] = (
    ((BOTH,), (LOW,)),
    ((BOTH,), (LOW,), (HIGH,)),
    ((BOTH,), (LOW, HIGH), (LOW, HIGH)),
    ((LOW,), (LOW, HIGH), (HIGH,)),
)
"""What the clients of some hosts want: one of these subnets each."""


@pytest.mark.parametrize("wanted", OVERLAPPING, ids=["two", "three", "two choose", "one chooses"])
def test_subnets_of_several_hosts_never_overlap(wanted: tuple[tuple[Subnet, ...], ...]) -> None:
    assert _explore_subnets(subnet_model.Rules(), [wanted]) > 1


@pytest.mark.parametrize("rule", subnet_model.Rules._fields)
def test_subnets_need_each_rule_of_the_protocol(rule: str) -> None:
    with pytest.raises(ViolationError, match="two subnets overlap"):
        _explore_subnets(subnet_model.Rules()._replace(**{rule: False}), OVERLAPPING)


def _explore_subnets(rules: subnet_model.Rules, cases: Sequence[tuple[tuple[Subnet, ...], ...]]) -> int:
    model = subnet_model.Model(rules)
    states = [subnet_model.State(tuple(map(subnet_model.Host, wanted))) for wanted in cases]
    return sum(explore(state, model.steps, model.always, model.at_rest).at_rest for state in states)
