"""One error for a teardown that continued past several."""

from __future__ import annotations

import pytest

from sandnet.errors import Error, Kind, collected

AWAY = Error(Kind.UNAVAILABLE, "the store is away", "try again later", "store_unavailable")
IN_USE = Error(Kind.IN_USE, "c2 on host h2", "detach it there first", "endpoint_in_use")
BROKEN = Error(Kind.INTERNAL, "the link is stuck", code="internal")


@pytest.mark.parametrize(
    ("failures", "kind", "code"),
    [
        ((AWAY,), Kind.UNAVAILABLE, "store_unavailable"),
        ((AWAY, AWAY), Kind.UNAVAILABLE, "store_unavailable"),
        ((IN_USE,), Kind.IN_USE, "endpoint_in_use"),
        ((IN_USE, AWAY), Kind.UNAVAILABLE, "store_unavailable"),
        ((IN_USE, BROKEN), Kind.INTERNAL, "teardown_incomplete"),
        ((Error(Kind.UNAVAILABLE, "not now"),), Kind.INTERNAL, "teardown_incomplete"),
        ((AWAY, BROKEN), Kind.INTERNAL, "teardown_incomplete"),
        ((AWAY, OSError("no")), Kind.INTERNAL, "teardown_incomplete"),
        ((BROKEN,), Kind.INTERNAL, "teardown_incomplete"),
    ],
)
def test_teardown_is_a_refusal_if_only_hosts_refused(failures: tuple[Exception, ...], kind: Kind, code: str) -> None:
    error = collected("the deletion is incomplete", failures)
    assert (error.kind, error.code) == (kind, code)


def test_failures_of_one_message_are_named_once() -> None:
    assert collected("incomplete", [AWAY, AWAY]).message == "incomplete: the store is away"
