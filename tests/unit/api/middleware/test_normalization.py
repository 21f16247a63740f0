"""What a request may not exceed before it is routed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest

from sandnet.api.middleware.normalization import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_TARGET,
    Message,
    Receive,
    RequestNormalizer,
    Scope,
    Send,
)


class Inner:
    """An application whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"code": ""}'})


async def ask(
    front: RequestNormalizer, path: str = "/networks", query: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()
) -> tuple[int, str, dict[bytes, bytes]]:
    """The status, the code of a refusal, the headers."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query}
    await front({**scope, "headers": list(headers)}, receive, send)
    return sent[0]["status"], msgspec.json.decode(sent[1]["body"])["code"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("path", "query", "headers", "expected"),
    [
        ("/" + "x" * MAX_TARGET, b"", [], (414, "target_too_long")),
        ("/networks", b"name=" + b"x" * MAX_TARGET, [], (414, "target_too_long")),
        ("/networks", b"", [(b"x", b"")] * (MAX_HEADERS + 1), (431, "headers_too_large")),
        ("/networks", b"", [(b"x", b"x" * MAX_HEADER_BYTES)], (431, "headers_too_large")),
    ],
    ids=["path", "query", "headers", "header"],
)
async def test_too_large_request_is_refused_unread(
    path: str, query: bytes, headers: list[tuple[bytes, bytes]], expected: tuple[int, str]
) -> None:
    inner = Inner()
    assert (await ask(RequestNormalizer(inner), path, query, headers))[:2] == expected
    assert inner.asked == 0


async def test_request_over_the_concurrency_limit_is_503_temporarily() -> None:
    inner = Inner()
    front = RequestNormalizer(inner, most=2)
    waiting = [asyncio.ensure_future(ask(front)) for _ in range(2)]
    await asyncio.sleep(0)
    status, code, headers = await ask(front)
    assert (status, code, headers[b"retry-after"]) == (503, "overloaded", b"1")
    uncounted = [asyncio.ensure_future(ask(front, path)) for path in ("/healthz", "/v1.20/events", "/events")]
    inner.go.set()
    assert {status for status, _, _ in await asyncio.gather(*waiting, *uncounted)} == {200}
    assert (await ask(front))[0] == 200
