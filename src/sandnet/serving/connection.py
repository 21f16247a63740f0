"""One connection of a client, and how long and how large it may get before a request of it is complete.

Uvicorn reads requests; what it leaves open is how much a client may send, and how slowly. All of it is limited here,
and only here: a request that has been read whole is the business of :mod:`sandnet.api.front`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from sandnet.api.failures import RETRY
from sandnet.wire.libnetwork import ErrorBody

MAX_HEAD: Final = 64 << 10
"""Bytes of a request line and headers that are not complete."""
MAX_MESSAGE: Final = 8 << 20
"""Bytes that may follow a head: a body of 1 MiB in small chunks, or what is thrown away of one that is refused."""
MAX_PIPELINE: Final = 16
"""Requests that may wait on one connection for the one before them (RFC 9112, 9.3.2)."""
LINGER: Final = 2.0
"""Seconds in which what a client still sends is thrown away after it has been answered for good: to close at once would
reset the connection, and the answer could be lost with it (RFC 9112, 9.6)."""


class Patience(NamedTuple):
    """Seconds after which a client is given up."""

    head: float = 10.0
    """From the connection, or the first byte of a further request, to the end of its headers."""
    body: float = 30.0
    """From there to the end of the body."""
    stall: float = 60.0
    """In which it reads nothing of an answer that waits for it."""


class Gate:
    """How many connections a kind of listeners has, and may have."""

    def __init__(self, most: int) -> None:
        self.inside = 0
        self._most = most

    def enter(self) -> bool:
        """Count one more; whether there is room for it. Each call needs a :meth:`leave`."""
        self.inside += 1
        return self.inside <= self._most

    def leave(self) -> None:
        """One is gone."""
        self.inside -= 1


class Connection(HttpToolsProtocol):
    """Uvicorn's connection with limits."""

    patience: ClassVar = Patience()

    def __init__(
        self,
        config: Config,
        state: ServerState,
        *,
        app: Any,
        gate: Gate,
        admitted: bool = False,
    ) -> None:
        """Begin.

        Args:
            config: of the server.
            state: the server's connections and tasks.
            app: what answers on this kind of listener.
            gate: where to be counted.
            admitted: who accepted it has counted it already.
        """
        super().__init__(config=config, server_state=state, app_state={})
        self.app = app
        self._gate = gate
        self._admitted, self._has_left = admitted, False
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = self._lingers = False
        self._taken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it has its time to send a request."""
        super().connection_made(transport)
        if not (self._admitted or self._gate.enter()):
            self._turn_away(503, ErrorBody(message="too many connections", code="overloaded", hint="try again later"))
        else:
            self._expect(self.patience.head)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        for timer in (self._waiting, self._stalled):
            if timer:
                timer.cancel()
        self.leave_gate()

    def leave_gate(self) -> None:
        """Be counted no more."""
        if not self._has_left:
            self._has_left = True
            self._gate.leave()

    def data_received(self, data: bytes) -> None:
        """Take a piece, unless it makes the request too large."""
        if self._lingers:
            return
        in_head, in_body, self._taken = self._in_head, self._in_body, self._taken + len(data)
        super().data_received(data)
        if in_head and self._in_head and self._taken > MAX_HEAD:
            self._turn_away(431, ErrorBody(message="the headers are larger than 64 KiB", code="headers_too_large"))
        elif (in_body and self._in_body and self._taken > MAX_MESSAGE) or len(self.pipeline) > MAX_PIPELINE:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head, self._taken = True, 0
        self._expect(self.patience.head)

    def on_headers_complete(self) -> None:
        """All but its body; the application begins."""
        self._in_head, self._in_body, self._taken = False, True, 0
        self._expect(self.patience.body)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request: from here on it is for us to hurry."""
        self._in_body = False
        if self._waiting:
            self._waiting.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport, which closes only when the client has read it."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._stalled and not self.transport.is_closing():
            self._stalled.cancel()

    def _expect(self, seconds: float) -> None:
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(seconds, self._too_slow, seconds)

    def _watch_reader(self) -> None:
        if self._stalled:
            self._stalled.cancel()
        self._stalled = self.loop.call_later(self.patience.stall, self.transport.abort)

    def _too_slow(self, seconds: float) -> None:
        if self.flow.read_paused:  # it is us who do not read: requests before this one are being answered
            self._expect(seconds)
        elif not (self._in_head or self._in_body):
            self.transport.close()  # a connection that nobody used
        else:
            part = "headers" if self._in_head else "body"
            message = f"the {part} did not arrive within {seconds:g} s"
            self._turn_away(408, ErrorBody(message=message, code="too_slow"))

    def _turn_away(self, status: int, body: ErrorBody) -> None:
        """Answer at once and close; only close where an answer of the application has begun, or is to come."""
        if self._lingers:
            return
        if not self.transport.is_closing() and not self.pipeline and not self._is_answering():
            self.transport.write(_raw(status, msgspec.json.encode(body)))
            self._lingers = status != 503 and self.transport.can_write_eof()
        if self._lingers:
            self._linger()
        else:
            self.transport.close()
        self._watch_reader()

    def _linger(self) -> None:
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)
        if self._in_body:  # the application waits for a body that nobody reads any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _is_answering(self) -> bool:
        if self._in_body:
            return self.cycle.response_started
        return self.cycle is not None and not self.cycle.response_complete


def _raw(status: int, content: bytes) -> bytes:
    reason = {408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}[status]
    retry = b"retry-after: %s\r\n" % RETRY.encode() if status == 503 else b""
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n"
    return head % (status, reason, len(content), retry) + content
