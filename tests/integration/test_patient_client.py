"""The client of the laboratory's tests repeats what a busy store did not answer, and learns what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.support.daemon import Api, RefusedError
from tests.support.lab import PatientApi

Answer = tuple[int, object]
UNKNOWN: Answer = (503, {"message": "", "code": "outcome_unknown"})
BUSY: Answer = (503, {"message": "", "code": "store_unavailable"})
TAKEN: Answer = (409, {"message": "", "code": "name_taken"})
MADE: Answer = (200, [{"id": "abc"}])
GONE: Answer = (404, {"message": "", "code": "network_not_found"})


def client(monkeypatch: pytest.MonkeyPatch, answers: Sequence[Answer]) -> PatientApi:
    """A client that is given these answers, one after the other."""
    given = iter(answers)

    def call(_: Api, method: str, path: str, **__: object) -> object:
        status, body = next(given)
        if status != 200:
            raise RefusedError(method, path, httpx.Response(status, json=body))
        return body

    monkeypatch.setattr(Api, "_call", call)
    return PatientApi(Path("/nowhere"))


@pytest.mark.parametrize(
    "answers",
    [
        [(200, "abc")],
        [BUSY, (200, "abc")],
        [UNKNOWN, (200, "abc")],
        [UNKNOWN, TAKEN, MADE],
        [UNKNOWN, TAKEN, (200, []), TAKEN, MADE],
    ],
    ids=["at once", "refused first", "not made the first time", "made the first time", "made and here later"],
)
def test_creation_is_repeated_until_it_is_answered(monkeypatch: pytest.MonkeyPatch, answers: list[Answer]) -> None:
    assert client(monkeypatch, answers).network("blue") == "abc"


def test_deletion_of_unknown_outcome_may_have_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, [UNKNOWN, GONE]).delete("/networks/blue")


@pytest.mark.parametrize("first", [[], [BUSY]])
def test_refusal_of_what_was_not_made_is_shown(monkeypatch: pytest.MonkeyPatch, first: list[Answer]) -> None:
    with pytest.raises(RefusedError, match="409"):
        client(monkeypatch, [*first, TAKEN]).network("blue")
    with pytest.raises(RefusedError, match="404"):
        client(monkeypatch, [*first, GONE]).delete("/networks/blue")
