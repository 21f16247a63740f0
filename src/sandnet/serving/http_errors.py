"""Error responses that the connection sends without the application, in the format of all other errors."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from sandnet.api.errors import retry_after
from sandnet.wire.libnetwork import ErrorBody


def raw(status: int, body: ErrorBody) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    content = msgspec.json.encode(body)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        "connection: close",
        *(f"{name.lower()}: {value}" for name, value in retry_after(body.code).items()),
    ]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + content


TOO_MANY_CONNECTIONS = ErrorBody(message="too many connections", code="overloaded", hint="try again later")
TOO_MANY_BYTES = ErrorBody(
    message="requests and answers under way take too much memory", code="overloaded", hint="try again later"
)
HEAD_TOO_LARGE = ErrorBody(message="the headers are larger than 64 KiB", code="headers_too_large")
TARGET_TOO_LONG = ErrorBody(message="path and query are larger than 8 KiB", code="target_too_long")
MALFORMED = ErrorBody(
    message="this is no HTTP request",
    code="malformed_request",
    hint="send HTTP/1.1 (RFC 9112), without TLS on this port",
)
CUT_HEAD = ErrorBody(message="the client ended before its headers were complete", code="malformed_request")
CUT_BODY = ErrorBody(message="the client ended before its body was complete", code="incomplete_body")


def too_many_ahead(most: int) -> ErrorBody:
    """Return the error for a request that was sent while too many before it were unanswered."""
    message = f"more than {most} requests wait on this connection"
    return ErrorBody(message=message, code="overloaded", hint="read answers before sending more requests")


def too_slow(part: str, seconds: float) -> ErrorBody:
    """Return the error for a request of which a part did not arrive in time."""
    return ErrorBody(message=f"the {part} did not arrive within {seconds:g} s", code="too_slow")
