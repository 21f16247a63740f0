"""Streaming responses of events: one line per event, blank keep-alive lines, and an end when the daemon stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Scope, Send

from sandnet.api.libnetwork.encode_events import EventEncoder
from sandnet.core.controller import Controller
from sandnet.errors import Error, Kind
from sandnet.wire import libnetwork as wire

NDJSON: Final = "application/x-ndjson"
SEQUENCE: Final = "Sandnet-Sequence"
"""Header with the number of the latest event when the stream began."""
_BEFORE_ALL: Final = -1


class Streams:
    """The open event streams of one daemon."""

    def __init__(self, *, most: int = 64, keep_alive: float = 15.0) -> None:
        """Initialize without an open stream.

        Args:
            most: limit of concurrent streams; each holds a connection as long as its reader wants.
            keep_alive: seconds without an event after which a blank line is sent.
        """
        self.open = 0
        self.keep_alive = keep_alive
        self._most = most

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one stream as open during the ``with`` block.

        Raises:
            Error: ``UNAVAILABLE`` when too many streams are open.
        """
        if self.open >= self._most:
            message = f"{self._most} streams of events are open already"
            raise Error(Kind.UNAVAILABLE, message, "end one of them, or share it", "too_many_streams")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class EventStream(Response[wire.Event]):
    """A response that continues until its reader disconnects or the daemon stops."""

    def __init__(self, core: Controller, streams: Streams, since: int | None) -> None:
        """Begin with the events after ``since``; ``None``: with the next event."""
        last = core.events.last
        # A number above the latest one is from an earlier store: that reader has missed every event of this one.
        self._since = last if since is None else since if since <= last else _BEFORE_ALL
        self._core = core
        self._streams = streams
        # There is no content to render: the type parameter is for the OpenAPI document.
        super().__init__(None, headers={SEQUENCE: str(last)})  # type: ignore[arg-type]

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIStreamingResponse:
        """Return the response in the form that the server sends."""
        return _Following(self._core, self._streams, self._since, self.headers)


class _Following(ASGIStreamingResponse):
    def __init__(self, core: Controller, streams: Streams, since: int, headers: dict[str, Any]) -> None:
        self._streams = streams
        self._lines = lines(core, since, streams.keep_alive)
        super().__init__(iterator=self._lines, headers=headers, media_type=NDJSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end or the client disconnects."""
        with self._streams.counted():
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)


async def lines(core: Controller, since: int, keep_alive: float) -> AsyncGenerator[bytes]:
    """Yield the events after ``since`` as lines of JSON, and an empty line every ``keep_alive`` idle seconds."""
    encoder, following = EventEncoder(core), core.events.follow(since)
    pending = asyncio.ensure_future(anext(following, None))
    try:
        while True:
            # Not wait_for: it would cancel the generator of events, which ends it.
            await asyncio.wait({pending}, timeout=keep_alive)
            if not pending.done():
                yield b"\n"
                continue
            event = pending.result()
            if event is None:
                return
            yield msgspec.json.encode(encoder.encoded(event)) + b"\n"
            pending = asyncio.ensure_future(anext(following, None))
    finally:
        pending.cancel()
