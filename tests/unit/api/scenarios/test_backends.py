"""The REST dialect of services with several backends: attaching, draining, weights, and what names answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from sandnet.api.app import create_app
from sandnet.dns.fake import FakeNames
from sandnet.model import Phase
from tests.support.in_process import Served, assert_refused, make, served


@pytest.fixture
def names() -> FakeNames:
    return FakeNames()


@pytest.fixture
async def daemon(tmp_path: Path, names: FakeNames) -> AsyncIterator[Served]:
    async with served(tmp_path, names) as running:
        yield running


@pytest.fixture
def client(daemon: Served) -> httpx.AsyncClient:
    return daemon.client


async def reported(client: httpx.AsyncClient, service: str, *keys: str) -> list[tuple[object, ...]]:
    """What is reported of each backend, the first attached first."""
    backends = (await client.get(f"/services/{service}/backend?verbose=true")).json()
    return [tuple(backend[key] for key in keys) for backend in backends]


async def a_service(client: httpx.AsyncClient, *containers: str, **requests: object) -> str:
    await make(client, "/networks", name="foo", options={"subnet": "10.7.0.0/24"})
    service = await make(client, "/services", name="web", network_name="foo", **requests)
    for container in containers:
        await make(client, f"/services/{service}/backend", container_id=container)
    return service


# Backends.


async def test_two_backends_have_own_addresses_and_one_is_the_holder(
    client: httpx.AsyncClient,
) -> None:
    service = await a_service(client, "c1")
    await make(client, f"/services/{service}/backend", container_id="c2", weight=7)
    assert await reported(client, service, "id", "address", "state", "weight", "holder") == [
        ("c1", "10.7.0.2/24", "ready", 1, True),
        ("c2", "10.7.0.3/24", "ready", 7, False),
    ]
    assert (await client.get(f"/services/{service}?verbose=true")).json()["address"] == "10.7.0.2/24"
    assert (await client.get(f"/services/{service}/backend")).json() == [{"id": "c1"}, {"id": "c2"}]


async def test_backend_change_is_shown_and_touches_nothing_else(
    client: httpx.AsyncClient,
) -> None:
    service = await a_service(client, "c1", "c2")
    backend = f"/services/{service}/backend/c1"
    for change, expected in (
        ({"state": "drained"}, ("drained", 1)),
        ({"weight": 100, "state": None}, ("drained", 100)),
        ({"state": "active"}, ("ready", 100)),
        ({"state": "drained", "weight": 2, "colour": "red"}, ("drained", 2)),
    ):
        response = await client.patch(backend, json=change)
        assert (response.status_code, response.content) == (200, b"")
        assert await reported(client, service, "state", "weight") == [expected, ("ready", 1)]


async def test_backend_failing_its_checks_is_failing_unless_drained(
    daemon: Served,
) -> None:
    service = await a_service(daemon.client, "c1")
    await daemon.controller.backends.set_health(service, "c1", healthy=False)
    assert await reported(daemon.client, service, "state") == [("failing",)]
    await daemon.client.patch(f"/services/{service}/backend/c1", json={"state": "drained"})
    assert await reported(daemon.client, service, "state") == [("drained",)]


@pytest.mark.parametrize(
    "body",
    [{}, {"state": "ready"}, {"state": ""}, {"state": 1}, {"weight": 0}, {"weight": 101}, {"weight": "2"}, []],
    ids=str,
)
async def test_invalid_backend_change_is_400_without_effect(client: httpx.AsyncClient, body: object) -> None:
    service = await a_service(client, "c1")
    assert_refused(await client.patch(f"/services/{service}/backend/c1", json=body), 400)
    assert await reported(client, service, "state", "weight") == [("ready", 1)]


async def test_changing_an_unknown_backend_or_service_is_404(client: httpx.AsyncClient) -> None:
    service = await a_service(client, "c1")
    change = {"state": "drained"}
    assert_refused(await client.patch(f"/services/{service}/backend/d", json=change), 404, "not_attached")
    assert_refused(await client.patch("/services/nope/backend/c1", json=change), 404, "no such service")


async def test_verbose_shows_aliases_and_affinity(client: httpx.AsyncClient) -> None:
    service = await a_service(client, aliases=["WWW", "www", "shop.example.com"], affinity="client")
    await make(client, f"/services/{service}/backend", container_id="c1", aliases=["Me"])
    shown = (await client.get(f"/services/{service}?verbose=true")).json()
    assert (shown["aliases"], shown["affinity"]) == (["www", "shop.example.com"], "client")
    box = (await client.get("/sandboxes/c1?verbose=true")).json()
    assert [plug["aliases"] for plug in box["interfaces"]] == [["me"]]


async def test_default_probe_is_shown_in_full(client: httpx.AsyncClient) -> None:
    service = await a_service(client, probe={"kind": "tcp", "port": 80})
    shown = (await client.get(f"/services/{service}?verbose=true")).json()
    assert shown["probe"] == {"kind": "tcp", "port": 80, "path": "/", "interval": 2.0, "timeout": 1.0}


async def test_publishing_a_bad_alias_or_affinity_names_the_field(client: httpx.AsyncClient) -> None:
    for request in ({"aliases": ["a b"]}, {"aliases": "a"}, {"affinity": "random"}):
        (field,) = request
        assert_refused(await client.post("/services", json={"name": "web", **request}), 400, field)
    assert (await client.get("/services")).json() == []


# What names answer.


async def test_explain_returns_the_record_of_a_name(client: httpx.AsyncClient) -> None:
    service = await a_service(client, "c1", aliases=["www"])
    network = (await client.get("/networks/foo")).json()["id"]
    found = (await client.get("/dns/explain?name=WWW.foo&from=c1")).json()
    assert list(found) == ["name", "asker", "answers", "source", "network", "owners", "upstreams", "reason", "inside"]
    assert (found["name"], found["asker"], found["answers"]) == ("WWW.foo", "c1", ["10.7.0.2"])
    assert (found["source"], found["network"], found["owners"]) == ("network", network, [service])


async def test_explain_of_an_unknown_name_returns_the_upstream_servers(
    client: httpx.AsyncClient,
) -> None:
    service = await a_service(client)
    await make(client, f"/services/{service}/backend", container_id="c1", dns=["192.0.2.53"])
    found = (await client.get("/dns/explain?name=example.com&from=c1")).json()
    assert (found["source"], found["answers"], found["upstreams"]) == ("upstream", [], ["192.0.2.53"])


async def test_explain_for_unknown_sandbox_is_404_and_on_crash_503(client: httpx.AsyncClient, names: FakeNames) -> None:
    await a_service(client, "c1")
    assert_refused(await client.get("/dns/explain?name=web&from=nobody"), 404, "no such sandbox")
    names.trouble = "it crashed"
    assert_refused(await client.get("/dns/explain?name=web&from=c1"), 503, "it crashed")


@pytest.mark.parametrize(("network", "word"), [("host", "host's"), ("none", "no interface")])
async def test_explain_for_container_without_resolver_names_its_dns(
    client: httpx.AsyncClient, network: str, word: str
) -> None:
    service = await make(client, "/services", name="plain", network_name=network)
    await make(client, f"/services/{service}/backend", container_id="c1")
    reported = await client.get("/dns/explain?name=web&from=c1")
    assert_refused(reported, 404, word)
    assert reported.json()["code"] == "no_name_server"


async def test_explain_without_a_resolver_is_503_with_explanation(tmp_path: Path) -> None:
    async with served(tmp_path / "other") as other:
        await a_service(other.client, "c1")
        assert_refused(await other.client.get("/dns/explain?name=web&from=c1"), 503, "no_resolver")


async def test_application_serves_only_its_own_controller(daemon: Served, tmp_path: Path) -> None:
    async with served(tmp_path / "other") as other:
        await a_service(other.client, "c1")
        transport = httpx.ASGITransport(app=create_app(daemon.controller, version=""))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as again:
            assert (await again.get("/services")).json() == []


# Containers by the beginning of their ids.

ONE, TWO = "a" * 12 + "1" * 52, "a" * 12 + "2" * 52


async def test_twelve_characters_of_an_id_identify_a_backend(client: httpx.AsyncClient) -> None:
    service = await a_service(client, ONE, "b" * 64)
    path = f"/services/{service[:12]}/backend"
    assert (await client.patch(f"{path}/{ONE[:12]}", json={"state": "drained"})).status_code == 200
    reported = (await client.get(f"{path}?verbose=true")).json()
    assert [backend["state"] for backend in reported] == ["drained", "ready"]
    assert (await client.delete(f"{path}/{ONE[:12]}")).status_code == 200
    network = (await client.get("/networks/foo")).json()["id"][:12]
    left = f"/networks/{network}/endpoints/{service[:12]}/containers/{'b' * 12}"
    assert [each["id"] for each in (await client.get(f"/services?network={network}")).json()] == [service]
    assert (await client.delete(left)).status_code == 200
    assert (await client.get(path)).json() == []


async def test_ambiguous_backend_id_prefix_is_refused(client: httpx.AsyncClient) -> None:
    await a_service(client, ONE, TWO)
    for ref in ("a", ONE[:12]):
        assert_refused(await client.delete(f"/services/web/backend/{ref}"), 400, "ambiguous", ONE, TWO)
        assert_refused(await client.patch(f"/services/web/backend/{ref}", json={"weight": 2}), 400, "ambiguous")
    assert (await client.delete(f"/services/web/backend/{ONE[:13]}")).status_code == 200
    assert_refused(await client.delete("/services/web/backend/b"), 404, "not_attached")


async def test_sandbox_of_an_endpoint_being_removed_is_still_listed(
    daemon: Served,
) -> None:
    service = await a_service(daemon.client, "c1")
    records = daemon.controller._context.records
    endpoint = records.endpoint(service)
    assert endpoint
    await records.commit(put=[replace(endpoint, phase=Phase.REMOVING)])
    listed = await daemon.client.get("/sandboxes")
    assert listed.status_code == 200
    assert [box["endpoints"][0]["name"] for box in listed.json()] == ["web"]


async def test_unattached_id_that_prefixes_a_backend_id_spares_it(
    client: httpx.AsyncClient,
) -> None:
    await a_service(client, "k11")
    assert_refused(await client.delete("/services/web/backend/k1"), 404, "not_attached")
    assert_refused(await client.patch("/services/web/backend/k1", json={"weight": 2}), 404, "not_attached")
    assert [each["id"] for each in (await client.get("/services/web/backend")).json()] == ["k11"]


async def test_sandbox_id_that_prefixes_another_is_404(
    client: httpx.AsyncClient,
) -> None:
    await a_service(client, "k11", ONE)
    assert_refused(await client.get("/sandboxes/k1"), 404, "sandbox_not_found")
    assert (await client.get(f"/sandboxes/{ONE[:4]}")).json()["id"] == ONE


async def test_leaving_container_id_that_prefixes_another_spares_it(
    daemon: Served,
) -> None:
    """As when a join of the first is under way: its record is there, and not ready."""
    await a_service(daemon.client, ONE[:12], ONE)
    records = daemon.controller._context.records
    box = records.sandbox(ONE[:12])
    assert box
    await daemon.client.delete(f"/services/web/backend/{ONE[:12]}")
    await records.commit(put=[replace(box, phase=Phase.CREATING)])
    assert_refused(await daemon.client.delete(f"/services/web/backend/{ONE[:12]}"), 404, "not_attached")
    assert_refused(await daemon.client.get(f"/sandboxes/{ONE[:12]}"), 404, "sandbox_not_found")
    assert [each["id"] for each in (await daemon.client.get("/services/web/backend")).json()] == [ONE]
