"""Read the body of a request, for applications that have no framework to do it."""

from __future__ import annotations

from sandnet.api.middleware.normalization import MAX_BODY, Receive
from sandnet.errors import invalid


async def read_body(receive: Receive) -> bytes:
    """Return the body of a request.

    Raises:
        Error: ``INVALID``: it is larger than :data:`MAX_BODY`, or the client disconnected before its end.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise invalid("the client hung up before its body was complete", code="incomplete_body")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise invalid("the body is larger than 1 MiB", code="body_too_large")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
