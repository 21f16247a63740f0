"""What happens to a request before it is routed: one form of path, version prefix, size, HEAD.

It works on the ASGI scope, so that no client ever sees a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from sandnet.api import failures
from sandnet.wire.libnetwork import ErrorBody

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY: Final = 1 << 20
"""Bytes."""
API_VERSION: Final = "1.20"
MIN_API_VERSION: Final = "1.0"

_VERSION: Final = re.compile(r"/v1\.(0|[1-9][0-9]{0,3})(?=/|$)")
_NEWEST: Final = int(API_VERSION.partition(".")[2])
_METHODS: Final = {"HEAD": "GET", "OPTIONS": "TRACE"}
"""HEAD is GET without its body. The router answers OPTIONS by itself; as TRACE, which no route knows, it is refused."""


class Front:
    """Wraps the application; everything but HTTP passes through untouched."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if head:
            send = _without_body(send)
        path = normal_path(scope)
        if match := _VERSION.match(path):
            if int(match[1]) > _NEWEST:
                await refuse(404, _engine_dialect(match[0]), send)
                return
            path = path[match.end() :] or "/"
        if path.endswith("/"):
            await refuse(404, failures.no_such_path(path), send)
            return
        if _declared_length(scope) > MAX_BODY:
            await refuse(413, failures.too_large(), send)
            return
        inner = {**scope, "path": path, "root_path": "", "method": _METHODS.get(scope["method"], scope["method"])}
        await self._app(inner, receive, send)


def normal_path(scope: Scope) -> str:
    """The path with single slashes and each segment in one percent-encoded form.

    Segments stay encoded, because a name may begin with a slash (``/services/%2Fpasteur``).
    """
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if isinstance(raw, bytes) and raw else quote(scope["path"])
    if "%" not in path and "//" not in path:
        return path
    segments = [_one_form(segment) for segment in path.split("/") if segment]
    return "/" + "/".join(segments) + "/" * (path.endswith("/") and bool(segments))


def _one_form(segment: str) -> str:
    return quote(unquote_to_bytes(segment), safe="") if "%" in segment else segment


def _declared_length(scope: Scope) -> int:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(declared) if declared.isdigit() else 0


def _engine_dialect(prefix: str) -> ErrorBody:
    return ErrorBody(
        message=f"the Docker Engine dialect ({prefix[1:]}) is not served here",
        code="dialect_not_served",
        hint=f"use bare paths or a version prefix up to /v{API_VERSION}",
    )


def _without_body(send: Send) -> Send:
    """The answer ends with its head: a body may be an endless one."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head


async def refuse(status: int, body: ErrorBody, send: Send) -> None:
    """Answer without having looked further."""
    content = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
