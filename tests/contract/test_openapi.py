"""The document at ``/openapi.json``, and whether the API does what it describes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandnet.api.app import HANDLERS
from tests.support.in_process import make, served


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(tmp_path) as running:
        yield running.client


async def test_openapi_document_is_valid_and_names_every_operation(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = json.loads(response.content)
    import schemathesis  # a second, which each process that only lists the tests of this file would spend too

    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "1.2.3")
    schemathesis.openapi.from_dict(document).validate()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(HANDLERS) == 20 + 13
    assert all("200" in operation["responses"] for operation in operations)
    parameters = {parameter["name"] for parameter in document["paths"]["/services"]["get"]["parameters"]}
    assert parameters == {"name", "partial-id", "network", "verbose"}
    asked = {each["name"]: each["required"] for each in document["paths"]["/dns/explain"]["get"]["parameters"]}
    assert asked == {"name": True, "from": True}
    events = document["paths"]["/events"]["get"]
    assert [each["name"] for each in events["parameters"]] == ["since"]
    lines = events["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
    assert lines == {"$ref": "#/components/schemas/Event"}
    body = document["paths"]["/networks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/NetworkCreate"}


async def documented(client: httpx.AsyncClient) -> Any:
    return json.loads((await client.get("/openapi.json")).content)


async def test_openapi_document_lists_every_possible_failure_status(
    client: httpx.AsyncClient,
) -> None:
    for path, methods in (await documented(client))["paths"].items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            assert {"400", "405", "408", "413", "414", "431", "500", "503"} <= statuses, (method, path)
            assert ("415" in statuses) == ("requestBody" in operation), (method, path)


@pytest.mark.parametrize(
    ("schema", "path", "least"),
    [
        ("NetworkCreate", "/networks", {"name": "n"}),
        ("EndpointCreate", "/networks/bridge/endpoints", {"name": "e"}),
        ("ServicePublish", "/services", {"name": "s"}),
        ("Join", "/services/web/backend", {"container_id": "c"}),
        ("ExposedPort", "/services#exposed_ports", {"proto": 6, "port": 80}),
        ("PortMapping", "/services#port_mapping", {"proto": "tcp", "port": 80}),
        ("ExtraHost", "/services/web/backend#extra_hosts", {"name": "a", "address": "192.0.2.1"}),
        ("ParentUpdate", "/services/web/backend#parent_updates",
         {"endpoint_id": "a", "name": "b", "address": "192.0.2.1"}),
    ],
)  # fmt: skip
async def test_openapi_required_fields_are_required_and_sufficient(
    client: httpx.AsyncClient, schema: str, path: str, least: dict[str, object]
) -> None:
    await make(client, "/services", name="web", network_name="bridge")
    described = (await documented(client))["components"]["schemas"][schema]
    assert described["required"] == list(least)
    path, _, place = path.partition("#")
    whole = {"/services": {"name": "s"}, "/services/web/backend": {"container_id": "c"}}.get(path, {})

    async def status(item: dict[str, object]) -> int:
        body = {**whole, place: [item]} if place else item
        return (await client.post(path, json=body)).status_code

    for field in least:
        assert "null" not in json.dumps(described["properties"][field])
        assert await status({key: value for key, value in least.items() if key != field}) == 400
        assert await status({**least, field: None}) == 400
    assert await status(least) == 200


async def test_openapi_document_names_mutually_exclusive_filters(
    client: httpx.AsyncClient,
) -> None:
    document = await documented(client)
    found = {}
    for path, methods in document["paths"].items():
        operation = methods.get("get", {})
        if "x-exclusive-parameters" not in operation:
            continue
        found[path] = exclusive = operation["x-exclusive-parameters"]
        assert f"At most one of {', '.join(exclusive)} may be given." in operation["description"]
        for parameter in operation["parameters"]:
            others = [name for name in exclusive if name != parameter["name"]]
            assert (f"not together with {' or '.join(others)}" in parameter["description"]) == (
                parameter["name"] in exclusive
            )
        for one in exclusive:
            for other in exclusive:
                # No hexadecimal digits: a value that two random ids happen to begin with is refused as ambiguous.
                query = f"{one}=web" if one == other else f"{one}=web&{other}=web"
                asked = path.replace("{network}", "bridge") + f"?{query}"
                assert (await client.get(asked)).status_code == (200 if one == other else 400), asked
    assert found == {
        "/networks": ["name", "partial-id"],
        "/networks/{network}/endpoints": ["name", "partial-id"],
        "/services": ["name", "partial-id", "network"],
    }
