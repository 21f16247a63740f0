"""Two hosts that share a store, in every order of their steps: the protocol of ADR 0030 before it is built.

Each rule of the protocol is also left out once: a model that then finds no fault would prove nothing.
"""

from __future__ import annotations

import pytest

from tests.model import attachment_model, creation_model
from tests.model.creation_model import Wanted
from tests.model.explore import ViolationError, explore

ANY = Wanted("web")
ANOTHER = Wanted("db")
FIXED = Wanted("web", 2)
FIXED_TOO = Wanted("db", 2)
DELETION = Wanted()


@pytest.mark.parametrize(
    ("timeouts", "expiries", "crashes"), [(1, 1, 0), (1, 0, 1), (2, 1, 0), (0, 1, 1), (0, 2, 0)], ids=str
)
def test_endpoint_is_attached_on_one_host_at_most(timeouts: int, expiries: int, crashes: int) -> None:
    model = attachment_model.Model(attachment_model.Rules())
    world = attachment_model.World(timeouts=timeouts, expiries=expiries, crashes=crashes)
    assert explore(world, model.steps, model.always, model.at_rest).at_rest > 1


@pytest.mark.parametrize("rule", attachment_model.Rules._fields)
def test_attachments_need_each_rule_of_the_protocol(rule: str) -> None:
    model = attachment_model.Model(attachment_model.Rules()._replace(**{rule: False}))
    world = attachment_model.World(timeouts=2, expiries=1, crashes=0)
    with pytest.raises(ViolationError):
        explore(world, model.steps, model.always, model.at_rest)


@pytest.mark.parametrize(
    "wanted",
    [(ANY, ANY), (ANY, ANOTHER), (FIXED, FIXED_TOO), (ANY, FIXED_TOO), (ANY, DELETION), (DELETION, DELETION)],
    ids=["one name", "two names", "one address", "any and a fixed address", "creation and deletion", "two deletions"],
)
def test_creations_of_two_hosts_never_collide(wanted: tuple[Wanted, Wanted]) -> None:
    model = creation_model.Model(creation_model.Rules())
    world = creation_model.World((creation_model.Host(wanted[0]), creation_model.Host(wanted[1])))
    assert explore(world, model.steps, model.always, model.at_rest).at_rest > 1


@pytest.mark.parametrize("rule", creation_model.Rules._fields)
def test_creations_need_each_rule_of_the_protocol(rule: str) -> None:
    with pytest.raises(ViolationError):
        _explore_pairs(creation_model.Rules()._replace(**{rule: False}))


def _explore_pairs(rules: creation_model.Rules) -> None:
    model = creation_model.Model(rules)
    for wanted in ((ANY, ANOTHER), (ANY, DELETION), (DELETION, ANY)):
        world = creation_model.World((creation_model.Host(wanted[0]), creation_model.Host(wanted[1])))
        explore(world, model.steps, model.always, model.at_rest)
