"""Endless answers: a line an event, blank lines between to show that we are there, an end with the daemon."""

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
"""Header: the number of the latest event when the stream began."""
_BEFORE_ALL: Final = -1


class Streams:
    """The streams of one daemon that are open."""

    def __init__(self, *, most: int = 64, keep_alive: float = 15.0) -> None:
        """None is open yet.

        Args:
            most: streams at a time; each holds a connection as long as its reader likes.
            keep_alive: seconds without an event after which a blank line is sent.
        """
        self.open = 0
        self.keep_alive = keep_alive
        self._most = most

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of the streams, while it lasts.

        Raises:
            Error: ``UNAVAILABLE`` when there are too many.
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
    """An answer that goes on until its reader hangs up or the daemon stops."""

    def __init__(self, core: Controller, streams: Streams, since: int | None) -> None:
        """Begin with the events after ``since``, or with the next one to happen."""
        last = core.events.last
        # A number from the future is one of an earlier store: that reader has missed all there is.
        self._since = last if since is None else since if since <= last else _BEFORE_ALL
        self._core = core
        self._streams = streams
        # There is no content to be rendered: the type is for the OpenAPI document.
        super().__init__(None, headers={SEQUENCE: str(last)})  # type: ignore[arg-type]

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIStreamingResponse:
        """The response as the server sends it."""
        return _Following(self._core, self._streams, self._since, self.headers)


class _Following(ASGIStreamingResponse):
    def __init__(self, core: Controller, streams: Streams, since: int, headers: dict[str, Any]) -> None:
        self._streams = streams
        self._lines = lines(core, since, streams.keep_alive)
        super().__init__(iterator=self._lines, headers=headers, media_type=NDJSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until there is no more, or nobody who reads it."""
        with self._streams.one():
            async with aclosing(self._lines):
                await super().__call__(scope, receive, send)


async def lines(core: Controller, since: int, keep_alive: float) -> AsyncGenerator[bytes]:
    """The events after ``since`` as lines of JSON, and an empty line after each ``keep_alive`` seconds without one."""
    happenings, following = EventEncoder(core), core.events.follow(since)
    coming = asyncio.ensure_future(anext(following, None))
    try:
        while True:
            # Not wait_for: that would cancel the reader of events, which ends it.
            await asyncio.wait({coming}, timeout=keep_alive)
            if not coming.done():
                yield b"\n"
                continue
            event = coming.result()
            if event is None:
                return
            yield msgspec.json.encode(happenings.encoded(event)) + b"\n"
            coming = asyncio.ensure_future(anext(following, None))
    finally:
        coming.cancel()
