"""One error for a teardown that continued past several."""

from __future__ import annotations

import pytest

from sandnet.errors import Error, Kind, collected

AWAY = Error(Kind.UNAVAILABLE, "the store is away", "try again later", "store_unavailable")
BROKEN = Error(Kind.INTERNAL, "the link is stuck", code="internal")


@pytest.mark.parametrize(
    ("failures", "kind", "code"),
    [
        ((AWAY,), Kind.UNAVAILABLE, "store_unavailable"),
        ((AWAY, AWAY), Kind.UNAVAILABLE, "store_unavailable"),
        ((Error(Kind.UNAVAILABLE, "not now"),), Kind.INTERNAL, "teardown_incomplete"),
        ((AWAY, BROKEN), Kind.INTERNAL, "teardown_incomplete"),
        ((AWAY, OSError("no")), Kind.INTERNAL, "teardown_incomplete"),
        ((BROKEN,), Kind.INTERNAL, "teardown_incomplete"),
    ],
)
def test_teardown_is_unavailable_if_only_the_store_refused(
    failures: tuple[Exception, ...], kind: Kind, code: str
) -> None:
    error = collected("the deletion is incomplete", failures)
    assert (error.kind, error.code) == (kind, code)


def test_failures_of_one_message_are_named_once() -> None:
    assert collected("incomplete", [AWAY, AWAY]).message == "incomplete: the store is away"
