"""The hops of joins and leaves: jobs and commits may only fall, files have a little room."""

from __future__ import annotations

import pytest

from bench.hops import Hops, count

MOST = {
    "join": Hops(files=75, jobs=2, commits=2),
    "leave": Hops(files=55, jobs=1, commits=2),
    "join of a further backend": Hops(files=80, jobs=2, commits=2),
    "leave of a further backend": Hops(files=65, jobs=1, commits=2),
}


@pytest.fixture(scope="module")
def counted() -> dict[str, Hops]:
    return count()


@pytest.mark.parametrize("what", MOST)
@pytest.mark.parametrize("which", Hops._fields)
def test_hops_of_a_join_and_a_leave_do_not_grow(counted: dict[str, Hops], what: str, which: str) -> None:
    assert 0 < getattr(counted[what], which) <= getattr(MOST[what], which)
