"""Filters of Docker's lists: both spellings, and what passes."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest

from sandnet.api.engine.filters import LISTING, PRUNING, before, matcher, parse
from sandnet.errors import Error
from sandnet.model import Network, Phase

BLUE = Network(
    id="ab" * 32, name="team-blue", driver="bridge", phase=Phase.READY, sequence=1, created=1000.0,
    labels={"team": "a", "empty": ""},
)  # fmt: skip


def query(filters: object) -> str:
    return urlencode({"filters": filters if isinstance(filters, str) else json.dumps(filters)})


def passes(filters: object, *, unused: bool = True, known: Any = LISTING) -> bool:
    return matcher(parse(query(filters), known), lambda net: unused)(BLUE)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("name", "blue", True),
        ("name", "^team-blue$", True),
        ("name", "^blue", False),
        ("name", "team$", False),
        ("name", "", True),
        ("id", "abab", True),
        ("id", "^ba", False),
        ("driver", "bridge", True),
        ("driver", "bri", False),
        ("scope", "local", True),
        ("scope", "swarm", False),
        ("type", "custom", True),
        ("type", "builtin", False),
        ("label", "team", True),
        ("label", "team=a", True),
        ("label", "team=", False),
        ("label", "empty=", True),
        ("label", "tea", False),
        ("dangling", "true", True),
        ("dangling", "0", False),
    ],
)
def test_filter_in_both_spellings(name: str, value: str, expected: bool) -> None:
    assert passes({name: [value]}) is expected
    assert passes({name: {value: True}}) is expected


def test_one_of_several_values_matches_and_all_labels_must() -> None:
    assert passes({"name": ["red", "blue"]})
    assert not passes({"label": ["team", "other"]})
    assert not passes({"name": ["blue"], "driver": ["null"]})
    assert not passes({"dangling": ["true"]}, unused=False)
    assert passes({})
    assert passes("")


def test_filters_of_prune() -> None:
    assert not passes({"label!": ["team=a"]}, known=PRUNING)
    assert passes({"label!": ["team=b"]}, known=PRUNING)
    assert passes({"until": ["1000.5"]}, known=PRUNING)
    assert not passes({"until": ["1970-01-01T00:16:40Z"]}, known=PRUNING)
    assert passes({"until": ["1970-01-01T00:16:41+00:00"]}, known=PRUNING)
    moment = before(parse(query({"until": ["1h30m"]}), PRUNING))
    assert moment == pytest.approx(time.time() - 5400, abs=60)


@pytest.mark.parametrize(
    ("filters", "known"),
    [
        ({"colour": ["x"]}, LISTING),
        ({"until": ["1h"]}, LISTING),
        ({"name": ["x"]}, PRUNING),
        ({"name": ["(a+)+$"]}, LISTING),
        ({"name": ["a.*"]}, LISTING),
        ({"type": ["x"]}, LISTING),
        ({"dangling": ["maybe"]}, LISTING),
        ({"dangling": ["true", "false"]}, LISTING),
        ({"until": ["soon"]}, PRUNING),
        ({"until": ["1h", "2h"]}, PRUNING),
        ({"until": ["9" * 40]}, PRUNING),
        ({"label": [f"l{number}" for number in range(300)]}, LISTING),
        ({"label": "a=b"}, LISTING),
        ({"label": [1]}, LISTING),
        (["name"], LISTING),
        ("{", LISTING),
        ("[" * 3000, LISTING),
    ],
)
def test_invalid_filters_are_refused(filters: object, known: Any) -> None:
    with pytest.raises(Error) as refused:
        passes(filters, known=known)
    assert refused.value.kind == "invalid"
