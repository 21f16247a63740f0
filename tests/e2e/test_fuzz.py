"""Requests made up from the OpenAPI document: no answer is our own fault, and each is one that the document reports."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.support.daemon import RunningDaemon

EXAMPLES = 25
"""Requests an operation."""
ENDLESS = {"/events"}
"""Paths whose answers have no end."""
AWAY = {"/dns/explain"}
"""Paths that answer 503 while the resolver is being restarted."""

pytestmark = pytest.mark.timeout(400)


def test_requests_generated_from_openapi_never_return_500(
    daemon: RunningDaemon,
) -> None:
    daemon.api.network("foo")
    daemon.api.endpoint("foo", "one")
    daemon.api.join("foo", "one", "c1")
    schema = schemathesis.openapi.from_dict(daemon.api.get("/openapi.json"))
    operations: list[Any] = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    operations = [operation for operation in operations if operation.path not in ENDLESS]
    assert len(operations) > 15
    known = st.sampled_from(["foo", "one", "c1", "bridge", "host", "none"])
    statuses: Counter[int] = Counter()
    for operation in operations:
        for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):
            fuzz(daemon, operation, known, mode, statuses)
    assert statuses[200] > 100
    assert statuses[400] > 100
    assert daemon.api.get("/healthz")["status"] == "ok"
    assert "failed unexpectedly" not in daemon.log
    assert "uvicorn" not in daemon.log


def fuzz(
    daemon: RunningDaemon, operation: Any, known: st.SearchStrategy[str], mode: GenerationMode, statuses: Counter[int]
) -> None:
    """Send made-up requests, half of them to objects there are."""

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        names=st.lists(known, min_size=3, max_size=3),
        real=st.booleans(),
    )
    def send(case: Any, names: list[str], real: bool) -> None:
        if real and case.path_parameters:
            case.path_parameters = dict(zip(case.path_parameters, names, strict=False))
        statuses[check(daemon, operation, case)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send()


def check(daemon: RunningDaemon, operation: Any, case: Any) -> int:
    how = case.as_transport_kwargs(base_url="http://sandnet")
    request = {"json": how["json"]} if how.get("json") is not None else {"content": how.get("data") or b""}
    if operation.method.upper() == "GET":
        request = {}
    response = daemon.api.http.request(how["method"], how["url"], params=how.get("params"), **request)
    described = (how["method"], how["url"], request, response.status_code, response.text)
    assert response.status_code < 500 or (operation.path in AWAY and response.status_code == 503), described
    documented = {int(status) for status in operation.definition.raw["responses"]}
    assert response.status_code in documented | {404, 405}, described
    if response.status_code != 200:
        assert response.json()["message"], described
    return response.status_code
