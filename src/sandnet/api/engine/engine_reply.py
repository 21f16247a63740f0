"""Replies of Docker's Engine API, and the headers that each of them has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from sandnet.api.middleware.normalization import ENGINE_API_VERSION, Send

_HEADERS: Final = {
    "api-version": ENGINE_API_VERSION,
    "docker-experimental": "false",
    "ostype": "linux",
    "swarm": "inactive",
}


class EngineReply(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Iterable[tuple[str, str]] = ()
    """Further ones."""


def json_reply(body: object, status: int = 200) -> EngineReply:
    """Return a reply of JSON."""
    return EngineReply(status, msgspec.json.encode(body))


async def send_reply(reply: EngineReply, send: Send) -> None:
    """Send a reply."""
    fields = [*_HEADERS.items(), *reply.headers, ("content-length", str(len(reply.body)))]
    if reply.body:
        fields.append(("content-type", reply.content_type))
    if reply.status == 204:
        fields.remove(("content-length", "0"))
    headers = [(name.encode(), value.encode()) for name, value in fields]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
