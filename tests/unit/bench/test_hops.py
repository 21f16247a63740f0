"""The hops of joins and leaves: jobs and commits may only fall, files have a little room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.hops import IN_EXISTING, Hops, count

PAGE = Path(__file__).parents[3] / "docs" / "speed.md"

MOST = {
    "join": Hops(files=75, jobs=2, commits=2),
    "leave": Hops(files=55, jobs=1, commits=2),
    "join of a further backend": Hops(files=80, jobs=2, commits=2),
    "leave of a further backend": Hops(files=65, jobs=1, commits=2),
    IN_EXISTING: Hops(files=75, jobs=3, commits=2),
}
SHOWN = {
    "join": "join",
    "leave": "leave",
    "join of a further backend": "attach of a further backend",
    "leave of a further backend": "its detach",
    IN_EXISTING: IN_EXISTING,
}
"""By kind: the row of docs/speed.md."""
DRIFT = 3
"""By how many files a row may be out of date."""


@pytest.fixture(scope="module")
def counted() -> dict[str, Hops]:
    return count()


@pytest.mark.parametrize("what", MOST)
@pytest.mark.parametrize("which", Hops._fields)
def test_hops_of_a_join_and_a_leave_do_not_grow(counted: dict[str, Hops], what: str, which: str) -> None:
    assert 0 < getattr(counted[what], which) <= getattr(MOST[what], which)


@pytest.mark.parametrize(("what", "row"), SHOWN.items())
def test_page_about_speed_shows_the_hops_of_today(counted: dict[str, Hops], what: str, row: str) -> None:
    found = re.search(rf"^\| {row} \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert found
    shown = Hops(*map(int, found.groups()))
    assert abs(shown.files - counted[what].files) <= DRIFT
    assert shown[1:] == counted[what][1:]
