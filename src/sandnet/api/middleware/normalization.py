"""Normalization of a request before it is routed: path, version prefix and HEAD; limits of the head and of concurrency.

It rewrites the ASGI scope, so a client never receives a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec

from sandnet.api import errors
from sandnet.wire.libnetwork import ErrorBody

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY: Final = 1 << 20
"""Size limit of a request body, in bytes."""
MAX_TARGET: Final = 8 << 10
"""Size limit of path and query, in bytes."""
MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 32 << 10
"""Size limit of all header names and values, in bytes."""
MAX_REQUESTS: Final = 512
"""Limit of concurrent requests: each may hold a body in memory."""
API_VERSION: Final = "1.20"
MIN_API_VERSION: Final = "1.0"

ENGINE_API_VERSION: Final = "1.55"
"""Highest version prefix of Docker's Engine API that is served."""
ENGINE_MIN_API_VERSION: Final = "1.40"

_VERSION: Final = re.compile(r"/v1\.(0|[1-9][0-9]{0,3})(?=/|$)")
_NEWEST, _ENGINE_OLDEST, _ENGINE_NEWEST = (
    int(version.partition(".")[2]) for version in (API_VERSION, ENGINE_MIN_API_VERSION, ENGINE_API_VERSION)
)
_ENGINE_PATHS: Final = {"/_ping", "/info"}
"""Paths of Docker's Engine API that its clients request without a version, and the other dialect has not."""
_METHODS: Final = {"HEAD": "GET", "OPTIONS": "TRACE"}
"""The method that is routed instead.

HEAD is GET without its body. The router would answer OPTIONS by itself; as TRACE, which no route has, it is refused.
"""


_UNCOUNTED: Final = {"/healthz", "/events"}
_OVERLOADED: Final = ErrorBody(message="too many requests at once", code="overloaded", hint="try again later")


class Refusal(NamedTuple):
    """The status and body of a response to a request that is not processed further."""

    status: int
    body: ErrorBody


class RequestNormalizer:
    """ASGI middleware that normalizes HTTP requests; everything else passes through unchanged."""

    def __init__(self, app: Any, *, engine: Any = None, most: int = MAX_REQUESTS) -> None:
        """Initialize the middleware.

        Args:
            app: the application that answers the normalized requests.
            engine: the one that answers those of Docker's Engine API; ``None``: there is none.
            most: limit of concurrent requests; ``/healthz`` is always answered, and event streams have a limit of their
                own.
        """
        self._app = app
        self._engine = engine
        self._free = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            send = _without_body(send)
        path, is_engine, refusal = _path(scope)
        refusal = _too_large(scope) or refusal
        if refusal:
            await refuse(*refusal, send)
            return
        inner = {**scope, "path": path, "root_path": "", "method": _METHODS.get(scope["method"], scope["method"])}
        app = self._engine if is_engine and self._engine else self._app
        if path in _UNCOUNTED and not is_engine:
            await app(inner, receive, send)
        elif self._free <= 0:
            await refuse(503, _OVERLOADED, send, errors.retry_after(_OVERLOADED.code))
        else:
            await self._counted(app, inner, receive, send)

    async def _counted(self, app: Any, scope: Scope, receive: Receive, send: Send) -> None:
        self._free -= 1
        try:
            await app(scope, receive, send)
        finally:
            self._free += 1


class _Target(NamedTuple):
    """What a request is for."""

    path: str
    """Without its version prefix."""
    is_engine: bool
    """Whether it is one of Docker's Engine API."""
    refusal: Refusal | None = None
    """Set if the path is not served."""


def _path(scope: Scope) -> _Target:
    """Return the path without its version prefix, and the dialect that the prefix means."""
    path = normal_path(scope)
    is_engine = path in _ENGINE_PATHS
    if match := _VERSION.match(path):
        minor = int(match[1])
        is_engine = minor > _NEWEST
        if is_engine and not _ENGINE_OLDEST <= minor <= _ENGINE_NEWEST:
            return _Target("", is_engine, Refusal(400, _engine_version(minor)))
        path = path[match.end() :] or "/"
    if path.endswith("/"):
        return _Target("", is_engine, Refusal(404, errors.no_such_path(path)))
    return _Target(path, is_engine)


def _too_large(scope: Scope) -> Refusal | None:
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET:
        return Refusal(414, ErrorBody(message="path and query are larger than 8 KiB", code="target_too_long"))
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        return Refusal(431, ErrorBody(message="more than 100 headers, or 32 KiB of them", code="headers_too_large"))
    return None


def normal_path(scope: Scope) -> str:
    """Return the path with single slashes and each segment in one percent-encoded form.

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


def _engine_version(minor: int) -> ErrorBody:
    """Return the body for a version of Docker's Engine API that is not served."""
    is_old = minor < _ENGINE_OLDEST
    limit = f"minimum supported API version is {ENGINE_MIN_API_VERSION}"
    if not is_old:
        limit = f"maximum supported API version is {ENGINE_API_VERSION}"
    return ErrorBody(
        message=f"client version 1.{minor} is too {'old' if is_old else 'new'}: the {limit}",
        code="unsupported_api_version",
        hint=f"without a prefix, and up to /v{API_VERSION}, the API of libnetwork is served",
    )


def _without_body(send: Send) -> Send:
    """Return a ``send`` that ends the response after its head: the body may be an endless stream."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head


async def refuse(status: int, body: ErrorBody, send: Send, more: Mapping[str, str] | None = None) -> None:
    """Send an error response without calling the application.

    Args:
        status: HTTP status.
        body: the reason.
        send: the ASGI ``send`` of the request.
        more: additional headers.
    """
    content = msgspec.json.encode(body)
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(more or {})}
    headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
