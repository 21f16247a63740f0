"""The REST dialect's bodies, limits and failures."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import httpx
import pytest

from sandnet.api.app import create_app
from sandnet.api.errors import STATUS
from sandnet.api.middleware.normalization import Message
from sandnet.errors import Error, Kind
from tests.architecture.source import REPOSITORY
from tests.support.in_process import Served, assert_refused, exchange, make, served

OPERATIONS = REPOSITORY / "docs" / "operations.md"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: Served) -> httpx.AsyncClient:
    return daemon.client


# Bodies.


MALFORMED = (b"", b"{", b"[]", b'"x"', b"{} x", b"\xff", b"[" * 100_000, b'{"name": "\xff"}')


@pytest.mark.parametrize("path", ["/networks", "/networks/bridge/endpoints", "/services", "/services/x/backend"])
async def test_malformed_body_is_400(client: httpx.AsyncClient, path: str) -> None:
    for body in MALFORMED:
        assert_refused(await client.post(path, content=body), 400, "invalid_body")


NAMELESS = (b"null", b"{}", b'{"name": null}', b'{"name": ""}', b'{"name": "a.b"}')


@pytest.mark.parametrize("path", ["/networks", "/networks/bridge/endpoints", "/services"])
async def test_create_without_a_name_is_400_with_explanation(client: httpx.AsyncClient, path: str) -> None:
    for body in NAMELESS:
        assert_refused(await client.post(path, content=body), 400, "invalid_name", "name")


async def test_create_with_a_wrong_type_names_the_field(client: httpx.AsyncClient) -> None:
    body = {"name": "a", "port_mapping": [{"Proto": 6, "Port": 80, "HostPort": "80"}]}
    assert_refused(await client.post("/services", json=body), 400, "port_mapping[0].host_port")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_create_reads_the_body_as_json_for_any_content_type(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/networks", content=b'{"name": "foo"}', headers={"Content-Type": kind})
    assert response.status_code == 200


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1 << 16):
        yield b" " * (1 << 16)


async def test_body_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    limit = 1 << 20
    exact = b'{"name": "foo"}'.ljust(limit)
    assert_refused(await client.post("/networks", content=exact + b" "), 413)
    assert_refused(await client.post("/networks", content=chunks(limit + 1)), 413)
    assert_refused(await client.request("DELETE", "/networks/bridge", content=exact + b" "), 413)
    assert (await client.post("/networks", content=exact)).status_code == 200


async def test_client_disconnect_during_send_logs_no_fault(daemon: Served, caplog: pytest.LogCaptureFixture) -> None:
    hanging_up: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    answered = await exchange(create_app(daemon.controller, version=""), "POST", b"/networks", hanging_up)
    assert answered[0]["status"] == 400
    assert not caplog.records


async def test_create_with_ignored_labels_warns_naming_them(client: httpx.AsyncClient) -> None:
    options = {'com.docker.network.a"\\\né': 1, "com.docker.network.generic": {"com.docker.network.b": "red"}}
    body = {"name": "foo", "options": options}
    response = await client.post("/networks", json=body)
    assert response.status_code == 200
    assert response.headers["warning"].startswith('299 sandnet "ignored unknown options: com.docker.network.a????, ')
    assert response.headers["warning"].endswith('com.docker.network.generic.com.docker.network.b"')
    assert "warning" not in (await client.post("/networks", json={"name": "bar"})).headers


async def test_warning_names_ten_keys_and_is_cut_at_500_characters(client: httpx.AsyncClient) -> None:
    options = {f"com.docker.network.{number:02}{'x' * 40}": 1 for number in range(20)}
    warning = (await client.post("/networks", json={"name": "foo", "options": options})).headers["warning"]
    _, _, reported = warning.partition("ignored unknown options: ")
    assert len(reported) <= 500 + 1  # the last quotation mark
    short = {f"com.docker.network.{number:02}": 1 for number in range(20)}
    warning = (await client.post("/networks", json={"name": "bar", "options": short})).headers["warning"]
    assert warning.endswith(', ..."')
    assert warning.count("com.docker.network.") == 10


# Failures.


def test_every_kind_of_failure_has_its_status() -> None:
    assert set(STATUS) == set(Kind)


PASSING = {"overloaded", "too_many_streams", "busy", "kernel_busy", "resolver_away", "rules_gone", "stopping"}
PASSING |= {"changed_elsewhere", "lease_ended", "store_restored"}
LASTING = {
    "driver_unavailable", "no_such_family", "no_resolver", "deadline", "store_unavailable", "store_closed",
    "store_conflict", "store_corrupt", "unavailable", "plugin_away", "plugin_refused", "no_taps",
    "no_traffic_limits", "outcome_unknown", "store_full", "store_denied", "store_unauthorized", "host_fenced",
    "store_format", "no_underlay", "no_encryption", "wireguard_silent", "no_dhcp", "no_dhcp_answer",
    "dhcp_offer_unusable",
}  # fmt: skip


async def test_only_transient_503_failures_have_a_retry_after_header(
    daemon: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = re.findall(r"^\| 503 \| (.*?) \|", OPERATIONS.read_text(), re.MULTILINE)
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert documented == PASSING | LASTING
    for code in documented:
        failure = Error(Kind.UNAVAILABLE, "no", code=code)
        monkeypatch.setattr(daemon.controller.networks, "create", AsyncMock(side_effect=failure))
        refused = await daemon.client.post("/networks", json={"name": "foo"})
        assert_refused(refused, 503, code)
        assert refused.headers.get("retry-after") == ("1" if code in PASSING else None), code


async def test_documented_failures_return_their_documented_status(
    client: httpx.AsyncClient,
) -> None:
    port = {"proto": 6, "port": 80, "host_port": 8080}
    await make(client, "/networks", name="foo")
    service = await make(client, "/services", name="bar", network_name="foo", port_mapping=[port])
    await client.post(f"/services/{service}/backend", json={"container_id": "c1"})
    assert_refused(await client.post("/networks", json={"name": "foo"}), 403, "name_taken")
    assert_refused(await client.post("/services", json={"name": "bar", "network_name": "foo"}), 403, "name_taken")
    assert_refused(await client.delete("/networks/foo"), 403, "bar", "--force", "?force=true")
    assert_refused(await client.delete(f"/services/{service}"), 403, "c1")
    assert_refused(await client.delete("/networks/bridge"), 403, "bridge")
    assert_refused(await client.post("/networks", json={"name": "x", "network_type": "none"}), 404, "driver")
    assert_refused(await client.get("/networks/nope"), 404, "no such network")
    assert_refused(await client.get("/networks/bridge/endpoints/bar"), 404, "no such endpoint", "sandnet service ls")
    assert_refused(await client.get("/services/nope"), 404, "no such service")
    assert_refused(await client.get("/sandboxes/nope"), 404, "no such sandbox")
    assert_refused(await client.post("/services", json={"name": "a", "network_name": "nope"}), 404, "nope")
    assert_refused(await client.delete(f"/services/{service}/backend/c2"), 404, "c2")
    assert_refused(await client.post("/services", json={"name": "a", "port_mapping": [port]}), 409, "8080")


async def test_create_with_an_unavailable_store_is_503(daemon: Served) -> None:
    daemon.kernel.fail_on("links.ensure_bridge", Error(Kind.UNAVAILABLE, "away", "wait"))
    assert_refused(await daemon.client.post("/networks", json={"name": "foo"}), 503, "away", "wait")


async def test_internal_fault_is_logged_and_hidden_from_the_client(
    daemon: Served, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.kernel.fail_on("links.ensure_bridge", RuntimeError("secret detail"))
    with caplog.at_level(logging.ERROR, "sandnet.api"):
        response = await daemon.client.post("/networks", json={"name": "foo"})
    assert_refused(response, 500, "internal")
    assert "secret" not in response.text
    assert any(record.exc_info and "secret detail" in str(record.exc_info[1]) for record in caplog.records)
    assert (await daemon.client.post("/networks", json={"name": "foo"})).status_code == 200
