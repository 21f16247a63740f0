"""A client's connection, with limits of time and size until a request is complete.

Uvicorn reads requests, but does not limit how much a client may send and how slowly, and gives no answer to a client
that sends no valid request. This module does both. A request that was read completely is checked in
:mod:`sandnet.api.middleware.normalization`. A refusal waits until the requests before it are answered, because answers
must stay in order. After it, no further bytes are parsed as a request.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import deque
from contextlib import suppress
from typing import Any, ClassVar, Final, NamedTuple

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from sandnet.api.middleware.normalization import MAX_TARGET
from sandnet.serving import http_errors
from sandnet.serving.answer_buffer import AnswerBuffer
from sandnet.serving.connection_limits import Gate
from sandnet.wire.libnetwork import ErrorBody

MAX_HEAD: Final = 64 << 10
"""Limit of bytes of an incomplete request line and headers."""
MAX_MESSAGE: Final = 8 << 20
"""Limit of bytes after a head: a body of 1 MiB in small chunks, or the discarded body of a refused request."""
MAX_PIPELINE: Final = 16
"""Limit of requests that wait on one connection for the one before them (RFC 9112, 9.3.2)."""
LINGER: Final = 2.0
"""Seconds during which a client's further bytes are discarded after the final answer.

An immediate close would reset the connection, and the answer could be lost with it (RFC 9112, 9.6).
"""
HANGUP_CHECK: Final = 1.0
"""Seconds between two checks whether a client that sends no more has closed the connection completely."""

_log = logging.getLogger(__name__)


class ConnectionTimeouts(NamedTuple):
    """Seconds after which a connection is closed."""

    head: float = 10.0
    """From the connection, or the first byte of a further request, to the end of its headers."""
    body: float = 30.0
    """From the end of the headers to the end of the body."""
    stall: float = 60.0
    """During which the client reads nothing of an answer."""


class _StopParsing(Exception):  # noqa: N818 - no failure, and never seen outside
    """Exception that ends a call of the parser from inside one of its callbacks."""


class Connection(HttpToolsProtocol):
    """Uvicorn's connection with limits."""

    timeouts: ClassVar = ConnectionTimeouts()

    def __init__(
        self,
        config: Config,
        state: ServerState,
        *,
        app: Any,
        gate: Gate,
        admitted: bool = False,
    ) -> None:
        """Initialize the connection.

        Args:
            config: the server's configuration.
            state: the server's connections and tasks.
            app: the application for this kind of listener.
            gate: the counter of connections and bytes.
            admitted: whether the caller has counted the connection already.
        """
        super().__init__(config=config, server_state=state, app_state={})
        self.app = app
        self._gate = gate
        self._admitted, self._left_gate = admitted, False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._in_head = self._in_body = False
        self._received = 0
        self._sizes: deque[int] = deque()
        """Bytes of each request that is not answered yet, the oldest first."""
        self._unread = 0
        self._closing = self._sends_no_more = False
        self._final_answer: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request, or refuse the connection."""
        super().connection_made(AnswerBuffer(transport, self.loop))  # type: ignore[arg-type]  # it is one in all it does
        if self._admitted or self._gate.enter():
            self._limit_request_time(self.timeouts.head)
        else:
            self.transport.write(http_errors.raw(503, http_errors.TOO_MANY_CONNECTIONS))
            self._closing = True
            self.transport.close()
            self._limit_reading_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers and release what the gate has counted."""
        super().connection_lost(exc)
        for timer in self._timers.values():
            timer.cancel()
        self._gate.request_bytes -= sum(self._sizes)
        self._sizes.clear()
        self._count_unread(0)
        self.leave_gate()

    def leave_gate(self) -> None:
        """Remove the connection from the gate's count."""
        if not self._left_gate:
            self._left_gate = True
            self._gate.leave()

    # What a client sends.

    def data_received(self, data: bytes) -> None:
        """Parse a piece of a request, or end the connection."""
        in_head, in_body, self._received = self._in_head, self._in_body, self._received + len(data)
        unanswered = len(self._sizes)
        if self._closing:  # discarded bytes are limited, too
            if self._received > MAX_MESSAGE:
                self.transport.abort()
            return
        self._parse(data)
        if self._in_head and not in_head and len(self._sizes) == unanswered:
            in_head, self._received = True, len(data)  # all of it is the beginning of one head
        if in_head and self._in_head and self._received > MAX_HEAD:
            self._refuse(*self._head_too_large())
        elif in_body and self._in_body and self._received > MAX_MESSAGE:
            self._refuse(413, ErrorBody(message="the body does not end", code="body_too_large"))

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer the complete requests of a client that sends no more: it may still read."""
        if self.scheme == "https" or self.transport.is_closing() or self._has_hung_up():
            return None  # TLS has no half-close
        self._sends_no_more = True
        if self._closing:
            return bool(self._sizes)
        if self._in_head or self._in_body:
            self._refuse(400, http_errors.CUT_HEAD if self._in_head else http_errors.CUT_BODY)
        elif not self._sizes:
            return None
        self._start("hangup", HANGUP_CHECK, self._check_for_hangup)
        return True

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # no upgrade is supported: further bytes would look like a request
            self.cycle.keep_alive = False
            self._closing = True
        except httptools.HttpParserError as failure:
            if not self._closing:
                _log.debug("no request: %s", failure.__context__ or failure)
                too_long = len(self.url) > MAX_TARGET  # longer than the limit of the target parser
                self._refuse(*((414, http_errors.TARGET_TOO_LONG) if too_long else (400, http_errors.MALFORMED)))

    def on_message_begin(self) -> None:
        """Begin a request, at its first byte."""
        if self._closing:
            raise _StopParsing
        if len(self._sizes) > MAX_PIPELINE or self._gate.is_full:
            full = http_errors.TOO_MANY_BYTES if self._gate.is_full else http_errors.too_many_ahead(MAX_PIPELINE)
            self._refuse(503, full)
            raise _StopParsing
        super().on_message_begin()
        self._in_head, self._received = True, 0
        self._limit_request_time(self.timeouts.head)

    def on_headers_complete(self) -> None:
        """Start the application, once the headers are complete."""
        self._hold(len(self.url) + sum(len(name) + len(value) for name, value in self.headers), new=True)
        self._in_head, self._in_body, self._received = False, True, 0
        self._limit_request_time(self.timeouts.body)
        try:
            super().on_headers_complete()
        except Exception:
            self._in_body = False  # there is no request: the target is invalid
            self._gate.request_bytes -= self._sizes.pop()
            raise

    def on_body(self, body: bytes) -> None:
        """Receive a piece of the body."""
        if self._closing:
            raise _StopParsing
        if not self.cycle.response_complete:
            self._hold(len(body))
            if self._gate.is_full:
                self._refuse(503, http_errors.TOO_MANY_BYTES)
                raise _StopParsing
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the time limit of a request: from its last byte on, the delay is the server's."""
        self._in_body = False
        self._stop("request")
        super().on_message_complete()

    def _hold(self, size: int, *, new: bool = False) -> None:
        if new:
            self._sizes.append(0)
        self._sizes[-1] += size
        self._gate.request_bytes += size

    def _head_too_large(self) -> tuple[int, ErrorBody]:
        in_target = len(self.url) > MAX_TARGET and not self.headers
        return (414, http_errors.TARGET_TOO_LONG) if in_target else (431, http_errors.HEAD_TOO_LARGE)

    # The answers.

    def on_response_complete(self) -> None:
        """Count an answer as sent: it is handed to the transport, which closes only when the client has read it."""
        if self._sizes:
            self._gate.request_bytes -= self._sizes.popleft()
        super().on_response_complete()
        if not self._sizes:
            if self._final_answer is not None:
                self._send_final_answer()
            elif self._sends_no_more:
                self.transport.close()
        if self.transport.is_closing():
            self._limit_reading_time()

    def _refuse(self, status: int, body: ErrorBody) -> None:
        """Refuse the latest request and parse no more.

        The refusal is sent when the requests before it are answered, then the connection is closed. If the answer to
        the request itself has begun, the connection is only closed.
        """
        if self._closing:
            return
        self._closing, self._received = True, 0
        self._stop("request")
        self._final_answer = http_errors.raw(status, body)
        if self._in_body:
            self._drop_last_request()
        if not self._sizes:
            self._send_final_answer()

    def _drop_last_request(self) -> None:
        """Drop the latest request, which will never be complete.

        The application sees a disconnection, and its answer is not sent.
        """
        if self.cycle.response_started:
            self._final_answer = b""
            if not self.cycle.response_complete:
                return
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            with suppress(ValueError):
                self.pipeline.remove((self.cycle, self.app))
            self._gate.request_bytes -= self._sizes.pop()

    def _send_final_answer(self) -> None:
        answer, self._final_answer = self._final_answer, None
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if answer:
            self.transport.write(answer)
        if self._sends_no_more or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.resume_reading()
            self._start("linger", LINGER, self.transport.close)
        self._limit_reading_time()

    # Timeouts.

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._limit_reading_time()

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read."""
        super().pause_writing()
        self._count_unread(self.transport.get_write_buffer_size())
        self._limit_reading_time()

    def resume_writing(self) -> None:
        """Stop the time limit of a client that reads again."""
        super().resume_writing()
        self._count_unread(0)
        if not self.transport.is_closing():
            self._stop("reader")

    def _count_unread(self, size: int) -> None:
        self._gate.unread_bytes += size - self._unread
        self._unread = size

    def _limit_request_time(self, seconds: float) -> None:
        self._start("request", seconds, self._too_slow, seconds)

    def _limit_reading_time(self) -> None:
        self._start("reader", self.timeouts.stall, self.transport.abort)

    def _too_slow(self, seconds: float) -> None:
        if self.flow.read_paused:  # the server does not read: requests before this one are being answered
            self._limit_request_time(seconds)
        elif not (self._in_head or self._in_body):
            self.transport.close()  # a connection that was never used
        else:
            self._refuse(408, http_errors.too_slow("headers" if self._in_head else "body", seconds))

    def _check_for_hangup(self) -> None:
        """Abort the connection if the client has closed it completely.

        Until something is sent to it, such a client looks like one that sends no more.
        """
        if self._has_hung_up():
            self.transport.abort()
        else:
            self._start("hangup", HANGUP_CHECK, self._check_for_hangup)

    def _has_hung_up(self) -> bool:
        socket = self.transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(socket.fileno(), 0)  # poll(2) reports POLLHUP and POLLERR always
        return bool(poll.poll(0))

    def _start(self, name: str, seconds: float, action: Any, *arguments: object) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, action, *arguments)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer:
            timer.cancel()
