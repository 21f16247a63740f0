"""Who is answered: not a page that a browser shows, whatever name it came by."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sandnet.api.middleware.browser_protection import BrowserProtection
from sandnet.api.middleware.normalization import Message, Receive, Scope, Send

JSON = {"content-type": "application/json"}
REACHED = ("192.0.2.1", 2376)


async def answer(
    method: str, headers: dict[str, str] | list[tuple[str, str]], names: tuple[str, ...] | None = (), **scope: Any
) -> tuple[int, str]:
    """The status, and the code of a refusal."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"code": ""}'})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.encode(), value.encode()) for name, value in pairs]
    request = {"type": "http", "method": method, "scheme": "http", "headers": raw, "server": REACHED, **scope}
    await BrowserProtection(app, names=names)(request, receive, send)
    return sent[0]["status"], msgspec.json.decode(sent[1]["body"])["code"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:2385", "127.0.0.1:2385", "127.8.8.8", "[::1]:2385", "192.0.2.1:2376", "net.example:1",
     "[2001:db8::1]:2376"],
)  # fmt: skip
async def test_own_host_name_over_tcp_is_answered(host: str) -> None:
    assert await answer("GET", {"host": host}, ("Net.Example", "2001:DB8:0::1")) == (200, "")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:2385", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.2", "2130706433",
     "localhost:2385@evil.example", "0.0.0.0:2385", "[::]:2385", "localhost\t", "", "[::1", "xn--lcalhost-54a"],
)  # fmt: skip
async def test_rebound_host_name_over_tcp_is_403(host: str) -> None:
    assert await answer("GET", {"host": host}) == (403, "forbidden_host")


async def test_missing_or_repeated_host_over_tcp_is_400() -> None:
    assert await answer("GET", {}) == (400, "invalid_host")
    twice = [("host", "localhost"), ("host", "evil.example")]
    assert await answer("GET", twice) == (400, "invalid_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "https://localhost:2385"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:2385", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_page_of_another_origin_over_tcp_is_403(method: str, headers: dict[str, str]) -> None:
    asked = {"host": "localhost:2385", **JSON, **headers}
    assert await answer(method, asked) == (403, "forbidden_origin")


async def test_own_origin_over_tcp_is_answered() -> None:
    own = {"host": "localhost:2385", "origin": "http://localhost:2385", "sec-fetch-site": "same-origin"}
    assert await answer("GET", own) == (200, "")
    assert await answer("GET", {"host": "localhost:2385", "sec-fetch-site": "none"}) == (200, "")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("names", [(), None], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("origin", "http://localhost", "http://evil.example"),
        ("host", "localhost", "localhost"),
        ("sec-fetch-site", "same-origin", "cross-site"),
        ("sec-fetch-mode", "cors", "cors"),
        ("content-type", "application/json", "text/plain"),
        ("content-type", "text/plain", "application/json"),
        ("content-length", "2", "2"),
        ("transfer-encoding", "chunked", "chunked"),
        ("content-encoding", "identity", "gzip"),
        ("expect", "100-continue", "x"),
    ],
)
async def test_repeated_decisive_header_is_400(
    method: str, names: tuple[str, ...] | None, name: str, first: str, second: str
) -> None:
    base = {"host": "localhost", "content-type": "application/json"}
    headers = [(key, value) for key, value in base.items() if key != name] + [(name, first), (name, second)]
    expected = "invalid_host" if name == "host" else "repeated_header"
    assert await answer(method, headers, names) == (400, expected)


async def test_repeated_list_header_is_answered() -> None:
    headers = [("host", "localhost"), ("accept", "a/b"), ("accept", "c/d"), ("x-forwarded-for", "a")]
    assert await answer("GET", [*headers, ("x-forwarded-for", "b")]) == (200, "")


async def test_fault_around_the_application_is_500_in_json() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("inside")

    scope: Scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "server": None}
    await BrowserProtection(faulty, names=None)(scope, receive, send)
    assert sent[0]["status"] == 500
    assert msgspec.json.decode(sent[1]["body"])["code"] == "internal"
    assert b"inside" not in sent[1]["body"]


async def test_unix_socket_ignores_host_and_content_type() -> None:
    assert await answer("POST", {"host": "evil.example"}, None, server=("/run/s.sock", None)) == (200, "")
    assert await answer("POST", {}, None, server=None) == (200, "")


@pytest.mark.parametrize("headers", [{"origin": "http://localhost"}, {"origin": ""}, {"sec-fetch-site": "cross-site"}])
async def test_page_behind_a_proxy_to_the_unix_socket_is_403(headers: dict[str, str]) -> None:
    assert await answer("GET", {"host": "localhost", **headers}, None, server=None) == (403, "forbidden_origin")
