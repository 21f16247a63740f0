"""Error responses of the libnetwork dialect: one table of the HTTP status of each error kind, and one body format."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from sandnet.errors import Error, Kind
from sandnet.wire.libnetwork import ErrorBody

STATUS: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 400,
    Kind.NAME_TAKEN: 403,
    Kind.IN_USE: 403,
    Kind.PROTECTED: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.EXHAUSTED: 409,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}

RETRY: Final = "1"
"""Seconds after which a client should try again (RFC 9110, 10.2.3)."""
_TRANSIENT_CODES: Final = {
    "overloaded",
    "busy",
    "changed_elsewhere",
    "lease_ended",
    "store_restored",
    "kernel_busy",
    "too_many_streams",
    "resolver_away",
    "stopping",
    "rules_gone",
}
"""Codes of errors that pass within a moment, for every client."""

AnyRequest = Request[object, object, object]  # type: ignore[type-var]

log = logging.getLogger(__name__)


def error_response(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return a response with the error body."""
    return Response(
        msgspec.json.encode(body), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def on_error(request: AnyRequest, error: Error) -> Response[bytes]:
    """Return the response to an error of sandnet's own classes; log it if its kind is ``INTERNAL``."""
    if error.kind is Kind.INTERNAL:
        log.error("%s %s failed: %s", request.method, request.scope["path"], error.message, exc_info=error)
    body = ErrorBody(message=error.message, code=error.code, hint=error.hint)
    return error_response(STATUS[error.kind], body, retry_after(error.code))


def retry_after(code: str) -> Mapping[str, str]:
    """Return the ``Retry-After`` header if the code is one of a transient error, else no header."""
    return {"Retry-After": RETRY} if code in _TRANSIENT_CODES else {}


def on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Return the response to the framework's refusal of a path, a method, a large body or a malformed request."""
    path = request.scope["path"]
    if isinstance(error, NotFoundException):
        return error_response(404, no_such_path(path))
    if isinstance(error, MethodNotAllowedException):
        allow = _allowed((error.headers or {}).get("allow", ""))
        message = f"that method is not allowed on {path}"
        body = ErrorBody(message=message, code="method_not_allowed", hint=f"allowed: {allow}")
        return error_response(405, body, {"Allow": allow})
    if error.status_code == 413:
        return error_response(413, too_large())
    if error.status_code >= 500:
        return on_unexpected(request, error)
    return error_response(error.status_code, ErrorBody(message=error.detail, code=Kind.INVALID.value))


def on_unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Return the response to an unexpected exception: the log contains the details, the response none of them."""
    log.error("%s %s failed unexpectedly", request.method, request.scope["path"], exc_info=error)
    return error_response(500, internal())


def internal() -> ErrorBody:
    """Return the body for a fault of the daemon, without any detail of it."""
    return ErrorBody(message="internal error", code=Kind.INTERNAL.value, hint="see the daemon's log")


def not_json() -> ErrorBody:
    """Return the body for a request whose content type is not JSON."""
    message = "over TCP a body must say that it is JSON, since web pages can send other ones without asking"
    return ErrorBody(message=message, code="not_json", hint="add the header Content-Type: application/json")


def no_such_path(path: str) -> ErrorBody:
    """Return the body for a path that no route has."""
    hint = "paths do not end in a slash" if path.endswith("/") else "the paths are listed in /openapi.json"
    return ErrorBody(message=f"no such path: {path}", code="path_not_found", hint=hint)


def too_large() -> ErrorBody:
    """Return the body for a request body over the limit."""
    return ErrorBody(message="the body is larger than 1 MiB", code="body_too_large")


def _allowed(methods: str) -> str:
    """Return the methods for ``Allow``: the router's list, without OPTIONS (not served), with HEAD if GET is there."""
    named = {method.strip() for method in methods.split(",")} - {"OPTIONS", ""}
    return ", ".join(sorted(named | ({"HEAD"} if "GET" in named else set())))
