"""One HTTP/1.1 connection to a member of etcd, kept open for one request after the other.

The standard library has no HTTP client for an event loop. The parser is httptools, that of the daemon's server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple, cast

from httptools import HttpParserError, HttpResponseParser

MOST_BYTES: Final = 64 << 20
"""Limit of an answer, and of the lines of a stream that no one has taken."""


class HttpAnswer(NamedTuple):
    """An answer of HTTP."""

    status: int
    body: bytes


class MemberConnection(asyncio.Protocol):
    """A connection that has at most one request under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._body = bytearray()
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._lines: deque[bytes] = deque()
        """Of the stream, not taken yet."""
        self._is_stream = False
        self._more: asyncio.Future[None] | None = None
        self._waiting_bytes = 0
        self._failure: Exception | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent."""
        return self._failure is None and self._answer is None and not self._is_stream

    async def exchange(self, request: bytes) -> HttpAnswer:
        """Send a request and return its answer. When it is cancelled, the connection is closed.

        Raises:
            OSError: the connection was lost, or what arrived is no HTTP.
        """
        self._answer = self._loop.create_future()
        try:
            self._send(request)
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None

    def open_stream(self, request: bytes) -> None:
        """Send a request whose answer is a stream of lines."""
        self._is_stream = True
        self._send(request)

    async def line(self) -> bytes:
        """Return the next line of the stream, without its end.

        Raises:
            OSError: the connection was lost; lines before that are returned first.
        """
        while not self._lines:
            if self._failure:
                raise self._failure
            self._more = self._loop.create_future()
            await self._more
        line = self._lines.popleft()
        self._waiting_bytes -= len(line)
        return line

    def close(self) -> None:
        """Close the connection at once."""
        self._fail(ConnectionAbortedError("the connection was closed"))

    def _send(self, request: bytes) -> None:
        if self._failure or self._transport is None:
            raise self._failure or ConnectionAbortedError("it is not connected")
        self._body.clear()
        self._transport.write(request)

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        if self._transport and not self._transport.is_closing():
            self._transport.abort()
        if self._answer and not self._answer.done():
            self._answer.set_exception(self._failure)
        self._wake()

    def _wake(self) -> None:
        if self._more and not self._more.done():
            self._more.set_result(None)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as failure:
            self._fail(ConnectionResetError(f"what it sent is no HTTP: {failure}"))

    def eof_received(self) -> None:
        """Note that nothing more will arrive."""
        self._fail(ConnectionResetError("the connection was closed by the other side"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection has ended.

        TCP's own timeout is a ``TimeoutError``. Callers would take it for one of theirs, and read from the connection
        again.
        """
        if isinstance(exc, TimeoutError):
            exc = ConnectionResetError("the other side did not answer any more")
        self._fail(exc or ConnectionResetError("the connection was closed by the other side"))

    # Called by the parser.

    def on_body(self, piece: bytes) -> None:
        """Store a piece of the body."""
        self._body += piece
        if len(self._body) + self._waiting_bytes > MOST_BYTES:
            self._fail(ConnectionAbortedError("its answer is too long"))
        elif self._is_stream and b"\n" in piece:
            *lines, rest = bytes(self._body).split(b"\n")
            self._waiting_bytes += sum(map(len, lines))
            self._lines += lines
            self._body[:] = rest
            self._wake()

    def on_message_complete(self) -> None:
        """Return the answer, or end the stream."""
        if self._answer is None:
            if self._is_stream and self._body:
                self._lines.append(bytes(self._body))
            self._fail(ConnectionResetError("the stream was ended by the other side"))
        elif not self._answer.done():
            status = self._parser.get_status_code()
            self._answer.set_result(HttpAnswer(status, bytes(self._body)))
            if not self._parser.should_keep_alive():
                self._failure = ConnectionResetError("the connection is not kept open")
