"""The REST dialect beyond its examples: references, filters, paths, and what an operator is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sandnet.api.app import create_app
from tests.support.in_process import Served, assert_refused, exchange, make, served


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: Served) -> httpx.AsyncClient:
    return daemon.client


# Finding and filtering.


async def test_id_name_and_prefix_get_the_same_object(client: httpx.AsyncClient) -> None:
    network = await make(client, "/networks", name="foo")
    service = await make(client, "/services", name="/lonely_pasteur", network_name="foo")
    for path in (f"/networks/{network}", "/networks/foo", f"/networks/{network[:9]}"):
        assert (await client.get(path)).json()["id"] == network
    for ref in (service, "%2Flonely_pasteur", "%2flonely%5Fpasteur", service[:9]):
        assert (await client.get(f"/services/{ref}")).json()["id"] == service
        assert (await client.get(f"/networks/foo/endpoints/{ref}")).json()["id"] == service


async def test_ambiguous_name_error_lists_the_candidates(client: httpx.AsyncClient) -> None:
    await make(client, "/networks", name="foo")
    first = await make(client, "/services", name="web")
    second = await make(client, "/services", name="web", network_name="foo")
    assert_refused(await client.get("/services/web"), 400, first[:12], second[:12])


@pytest.mark.parametrize("name", ["true", "null", "1", "a_b"])
async def test_name_filter_matches_exactly(client: httpx.AsyncClient, name: str) -> None:
    network = await make(client, "/networks", name=name)
    endpoint = await make(client, f"/networks/{network}/endpoints", name=f"/{name}")
    await make(client, f"/networks/{network}/endpoints", name=f"{name}b")
    for path in (f"/networks?name={name}", f"/networks?name=%{ord(name[0]):02X}{name[1:]}"):
        assert [net["id"] for net in (await client.get(path)).json()] == [network]
    for path in (f"/networks/{name}/endpoints?name=/{name}", f"/services?name=%2F{name}"):
        assert [found["id"] for found in (await client.get(path)).json()] == [endpoint]


async def test_partial_id_filter_matches_ids_by_prefix(client: httpx.AsyncClient) -> None:
    network = await make(client, "/networks", name="foo")
    endpoint = await make(client, "/services", name="a", network_name="foo")
    await make(client, "/services", name="b", network_name="foo")
    assert [net["id"] for net in (await client.get(f"/networks?partial-id={network[:20]}")).json()] == [network]
    for path in ("/services", "/networks/foo/endpoints"):
        assert [ep["id"] for ep in (await client.get(f"{path}?partial-id={endpoint[:20]}")).json()] == [endpoint]
    assert (await client.get(f"/networks?partial-id={network[1:20]}")).json() == []


async def test_service_network_filter_accepts_name_and_id(client: httpx.AsyncClient) -> None:
    network = await make(client, "/networks", name="foo")
    service = await make(client, "/services", name="a", network_name="foo")
    await make(client, "/services", name="a")
    for value in ("foo", network):
        assert [found["id"] for found in (await client.get(f"/services?network={value}")).json()] == [service]
    assert (await client.get("/services?network=nobody")).json() == []


async def test_empty_name_filter_lists_the_default_network(client: httpx.AsyncClient) -> None:
    assert [net["name"] for net in (await client.get("/networks?name=")).json()] == ["bridge"]


BAD_QUERIES = (
    "/networks?name=a&partial-id=b",
    "/networks?name=a&name=a",
    "/networks?partial-id=",
    "/networks?network=foo",
    "/networks?hostname=foo",
    "/networks?Name=foo",
    "/networks?verbose=1",
    "/networks?verbose=",
    "/networks?verbose",
    "/networks/bridge?name=bridge",
    "/networks/bridge/endpoints?name=",
    "/networks/bridge/endpoints?network=bridge",
    "/services?name=",
    "/services?network=",
    "/services?network=bridge&name=a",
    "/services?x=name=foo",
    "/sandboxes?name=a",
    "/healthz?verbose=no",
    "/events?since=",
    "/events?since=-1",
    "/events?since=x",
    "/events?since=1e3",
    "/events?since=" + "9" * 5000,
    "/events?name=a",
    "/dns/explain",
    "/dns/explain?name=a",
    "/dns/explain?from=a",
    "/dns/explain?name=&from=a",
    "/dns/explain?name=a&from=c1&since=1",
)


async def test_bad_query_on_read_is_refused(client: httpx.AsyncClient) -> None:
    for path in BAD_QUERIES:
        assert_refused(await client.get(path), 400, "invalid_query")


@pytest.mark.parametrize("query", ["name=", "name=bridge", "verbose=true", "x"])
async def test_query_on_a_change_is_refused_without_effect(client: httpx.AsyncClient, query: str) -> None:
    await make(client, "/networks", name="foo")
    assert_refused(await client.delete(f"/networks/foo?{query}"), 400)
    assert_refused(await client.post(f"/networks/foo/endpoints?{query}", json={"name": "a"}), 400)
    assert (await client.get("/networks/foo")).json()["endpoints"] == []
    assert (await client.get("/services")).json() == []


# Paths and methods.


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/networks/", "/networks/a/b", "/a/b/networks", "/v1.19", "/v2.0/networks"]
)
async def test_unknown_path_is_404(client: httpx.AsyncClient, path: str) -> None:
    assert_refused(await client.get(path), 404, "path_not_found")


@pytest.mark.parametrize(("prefix", "word"), [("/v1.21", "too old"), ("/v1.39", "1.40"), ("/v1.56", "too new")])
async def test_version_of_neither_dialect_is_refused(client: httpx.AsyncClient, prefix: str, word: str) -> None:
    assert_refused(await client.get(f"{prefix}/networks"), 400, "unsupported_api_version", word)


async def test_only_one_of_two_path_prefixes_is_stripped(client: httpx.AsyncClient) -> None:
    assert_refused(await client.get("/v1.19/v1.19/networks"), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/networks", "GET, HEAD, POST"),
        ("PUT", "/networks/bridge", "DELETE, GET, HEAD, PATCH"),
        ("OPTIONS", "/services", "GET, HEAD, POST"),
        ("DELETE", "/services", "GET, HEAD, POST"),
        ("POST", "/networks/bridge", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/networks/bridge/endpoints/a/containers", "POST"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("BREW", "/version", "GET, HEAD"),
        ("POST", "/events", "GET, HEAD"),
        ("PUT", "/services/a/backend/b", "DELETE, PATCH"),
    ],
)
async def test_wrong_method_is_405_with_the_allowed_ones(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert_refused(response, 405)
    assert response.headers["allow"] == allow


async def test_head_is_get_without_the_body(daemon: Served) -> None:
    reported, head = await daemon.client.get("/networks"), await daemon.client.head("/networks")
    assert (head.status_code, head.headers) == (200, reported.headers)
    assert (await daemon.client.head("/networks/nope")).status_code == 404
    sent = await exchange(create_app(daemon.controller, version=""), "HEAD", b"/networks")
    assert [message["body"] for message in sent if message["type"] == "http.response.body"] == [b""]


async def test_repeated_slashes_before_a_prefix_count_as_one(daemon: Served) -> None:
    sent = await exchange(create_app(daemon.controller, version=""), "GET", b"//v1.19//networks///bridge")
    assert sent[0]["status"] == 200


# What an operator is reported.


async def test_verbose_appends_the_operator_keys(client: httpx.AsyncClient) -> None:
    options = {"subnet": "10.7.0.0/24", "gateway": "10.7.0.9", "mtu": 1400, "icc": False}
    await make(client, "/networks", name="foo", options=options)
    port = {"proto": "tcp", "port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}
    exposed = [{"proto": 17, "port": 53}]
    service = await make(
        client, "/services", name="bar", network_name="foo", port_mapping=[port], exposed_ports=exposed
    )
    await make(client, f"/services/{service}/backend", container_id="c1")
    network = (await client.get("/networks/foo?verbose=true")).json()
    reported = (await client.get(f"/services/{service}?verbose=true")).json()
    assert list(network) == [
        *("name", "id", "type", "endpoints", "driver", "scope"),
        *("subnets", "gateways", "internal", "options", "labels", "created"),
    ]
    assert (network["driver"], network["scope"], network["internal"]) == ("bridge", "local", False)
    assert (network["subnets"], network["gateways"], network["options"]) == (["10.7.0.0/24"], ["10.7.0.9"], options)
    assert list(reported) == [
        *("name", "id", "network", "address", "address_ipv6", "additional_addresses", "mac", "gateway"),
        *(
            "exposed_ports",
            "port_mapping",
            "direct_ports",
            "aliases",
            "affinity",
            "probe",
            "bandwidth",
            "lease",
            "labels",
            "backends",
            "created",
        ),
    ]
    assert (reported["address"], reported["mac"], reported["gateway"]) == (
        "10.7.0.1/24",
        "02:42:0a:07:00:01",
        "10.7.0.9",
    )
    assert reported["exposed_ports"] == exposed
    assert reported["port_mapping"] == [{"proto": 6, "port": 80, "host_ip": "127.0.0.1", "host_port": 8080}]
    key = "/var/run/docker/netns/c1"
    place = {"id": "c1", "sandbox_key": key, "interface": "eth0", "address": "10.7.0.1/24", "address_ipv6": None}
    backend = {**place, "state": "ready", "weight": 1, "holder": True}
    assert reported["backends"] == [backend]
    assert (await client.get(f"/services/{service}/backend?verbose=true")).json() == [backend]
    assert network["endpoints"][0]["backends"] == [backend]
    assert list(network["endpoints"][0])[:3] == ["id", "name", "network"]
    assert (await client.get("/networks/foo?verbose=false")).json() == (await client.get("/networks/foo")).json()


async def test_sandbox_shows_its_interfaces(client: httpx.AsyncClient) -> None:
    service = await make(client, "/services", name="bar")
    await make(client, f"/services/{service}/backend", container_id="c1", host_name="web", dns=["192.0.2.53"])
    key = "/var/run/docker/netns/c1"
    endpoints = [{"id": service, "name": "bar", "network": "bridge"}]
    assert (await client.get("/sandboxes")).json() == [{"id": "c1", "sandbox_key": key, "endpoints": endpoints}]
    reported = (await client.get("/sandboxes/c1?verbose=true")).json()
    assert (reported["host_name"], reported["dns"], reported["origin"], reported["state"]) == (
        "web",
        ["192.0.2.53"],
        "made",
        "ready",
    )
    assert [(each["endpoint"], each["interface"]) for each in reported["interfaces"]] == [(service, "eth0")]


async def test_daemon_reports_about_itself(client: httpx.AsyncClient) -> None:
    health = (await client.get("/healthz")).json()
    assert (health["status"], health["problems"]) == ("ok", [])
    assert {"name": "bridge", "available": True, "reason": ""} in health["drivers"]
    version = (await client.get("/version")).json()
    assert version == {
        "version": "1.2.3", "api_version": "1.20", "min_api_version": "1.0",
        "Version": "1.2.3", "ApiVersion": "1.55", "MinAPIVersion": "1.40",
    }  # fmt: skip
