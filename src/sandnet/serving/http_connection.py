"""One connection of a client, and how long and how large it may get before a request of it is complete.

Uvicorn reads requests; what it leaves open is how much a client may send, how slowly, and what it is answered when it
sends no request at all. That is decided here: a request that has been read whole is the business of
:mod:`sandnet.api.middleware.normalization`.
A refusal waits until the requests before it are answered, so that answers stay in order;
after it nothing more is read as a request.
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
from sandnet.serving.connection_limits import Gate
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
HANGUP_CHECK: Final = 1.0
"""Seconds between two looks whether a client that sends no more has gone altogether."""

_log = logging.getLogger(__name__)


class ConnectionTimeouts(NamedTuple):
    """Seconds after which a client is given up."""

    head: float = 10.0
    """From the connection, or the first byte of a further request, to the end of its headers."""
    body: float = 30.0
    """From there to the end of the body."""
    stall: float = 60.0
    """In which it reads nothing of an answer that waits for it."""


class _StopParsing(Exception):  # noqa: N818 - no failure, and never seen outside
    """Ends a call of the parser from inside one of its callbacks."""


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
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._in_head = self._in_body = False
        self._taken = 0
        self._sizes: deque[int] = deque()
        """Bytes of each request that is not answered yet, the oldest first."""
        self._unread = 0
        self._ends = self._sends_no_more = False
        self._final_answer: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it has its time to send a request."""
        super().connection_made(transport)
        if self._admitted or self._gate.enter():
            self._expect(self.timeouts.head)
        else:
            transport.write(http_errors.raw(503, http_errors.TOO_MANY_CONNECTIONS))
            self._ends = True
            transport.close()
            self._watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        for timer in self._timers.values():
            timer.cancel()
        self._gate.held -= sum(self._sizes)
        self._sizes.clear()
        self._count_unread(0)
        self.leave_gate()

    def leave_gate(self) -> None:
        """Be counted no more."""
        if not self._has_left:
            self._has_left = True
            self._gate.leave()

    # What a client sends.

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request, or what ends the connection."""
        in_head, in_body, self._taken = self._in_head, self._in_body, self._taken + len(data)
        unanswered = len(self._sizes)
        if self._ends:  # what is thrown away has an end too
            if self._taken > MAX_MESSAGE:
                self.transport.abort()
            return
        self._parse(data)
        if self._in_head and not in_head and len(self._sizes) == unanswered:
            in_head, self._taken = True, len(data)  # all of it is the beginning of one head
        if in_head and self._in_head and self._taken > MAX_HEAD:
            self._refuse(*self._head_too_large())
        elif in_body and self._in_body and self._taken > MAX_MESSAGE:
            self._refuse(413, ErrorBody(message="the body does not end", code="body_too_large"))

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more. It may still read: what it has asked for is answered first."""
        if self.scheme == "https" or self.transport.is_closing() or self._has_hung_up():
            return None  # TLS cannot be closed by halves
        self._sends_no_more = True
        if self._ends:
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
        except httptools.HttpParserUpgrade:  # we upgrade to nothing: what follows cannot be told from a request
            self.cycle.keep_alive = False
            self._ends = True
        except httptools.HttpParserError as failure:
            if not self._ends:
                _log.debug("no request: %s", failure.__context__ or failure)
                too_long = len(self.url) > MAX_TARGET  # longer than the parser of targets takes
                self._refuse(*((414, http_errors.TARGET_TOO_LONG) if too_long else (400, http_errors.MALFORMED)))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._ends:
            raise _StopParsing
        if len(self._sizes) > MAX_PIPELINE or self._gate.is_full:
            full = http_errors.TOO_MANY_BYTES if self._gate.is_full else http_errors.too_many_ahead(MAX_PIPELINE)
            self._refuse(503, full)
            raise _StopParsing
        super().on_message_begin()
        self._in_head, self._taken = True, 0
        self._expect(self.timeouts.head)

    def on_headers_complete(self) -> None:
        """All but its body; the application begins."""
        self._hold(len(self.url) + sum(len(name) + len(value) for name, value in self.headers), new=True)
        self._in_head, self._in_body, self._taken = False, True, 0
        self._expect(self.timeouts.body)
        try:
            super().on_headers_complete()
        except Exception:
            self._in_body = False  # there is no request: the target is none
            self._gate.held -= self._sizes.pop()
            raise

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._ends:
            raise _StopParsing
        if not self.cycle.response_complete:
            self._hold(len(body))
            if self._gate.is_full:
                self._refuse(503, http_errors.TOO_MANY_BYTES)
                raise _StopParsing
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request: from here on it is for us to hurry."""
        self._in_body = False
        self._stop("request")
        super().on_message_complete()

    def _hold(self, size: int, *, new: bool = False) -> None:
        if new:
            self._sizes.append(0)
        self._sizes[-1] += size
        self._gate.held += size

    def _head_too_large(self) -> tuple[int, ErrorBody]:
        in_target = len(self.url) > MAX_TARGET and not self.headers
        return (414, http_errors.TARGET_TOO_LONG) if in_target else (431, http_errors.HEAD_TOO_LARGE)

    # What it is answered.

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport, which closes only when the client has read it."""
        if self._sizes:
            self._gate.held -= self._sizes.popleft()
        super().on_response_complete()
        if not self._sizes:
            if self._final_answer is not None:
                self._send_final_answer()
            elif self._sends_no_more:
                self.transport.close()
        if self.transport.is_closing():
            self._watch_reader()

    def _refuse(self, status: int, body: ErrorBody) -> None:
        """Read no more requests. Answer so when those before are answered, then close; where the answer to the request
        in question has begun, only close."""
        if self._ends:
            return
        self._ends, self._taken = True, 0
        self._stop("request")
        self._final_answer = http_errors.raw(status, body)
        if self._in_body:
            self._give_up_last()
        if not self._sizes:
            self._send_final_answer()

    def _give_up_last(self) -> None:
        """The latest request will never be complete: the application is to know, and its answer is not sent."""
        if self.cycle.response_started:
            self._final_answer = b""
            if not self.cycle.response_complete:
                return
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            with suppress(ValueError):
                self.pipeline.remove((self.cycle, self.app))
            self._gate.held -= self._sizes.pop()

    def _send_final_answer(self) -> None:
        word, self._final_answer = self._final_answer, None
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if word:
            self.transport.write(word)
        if self._sends_no_more or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.resume_reading()
            self._start("linger", LINGER, self.transport.close)
        self._watch_reader()

    # Time.

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._count_unread(self.transport.get_write_buffer_size())
        self._watch_reader()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._count_unread(0)
        if not self.transport.is_closing():
            self._stop("reader")

    def _count_unread(self, size: int) -> None:
        self._gate.unread += size - self._unread
        self._unread = size

    def _expect(self, seconds: float) -> None:
        self._start("request", seconds, self._too_slow, seconds)

    def _watch_reader(self) -> None:
        self._start("reader", self.timeouts.stall, self.transport.abort)

    def _too_slow(self, seconds: float) -> None:
        if self.flow.read_paused:  # it is us who do not read: requests before this one are being answered
            self._expect(seconds)
        elif not (self._in_head or self._in_body):
            self.transport.close()  # a connection that nobody used
        else:
            self._refuse(408, http_errors.too_slow("headers" if self._in_head else "body", seconds))

    def _check_for_hangup(self) -> None:
        """A client that has closed altogether looks like one that sends no more, until something is sent to it."""
        if self._has_hung_up():
            self.transport.abort()
        else:
            self._start("hangup", HANGUP_CHECK, self._check_for_hangup)

    def _has_hung_up(self) -> bool:
        socket = self.transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(socket.fileno(), 0)  # POLLHUP and POLLERR come unasked (poll(2))
        return bool(poll.poll(0))

    def _start(self, name: str, seconds: float, action: Any, *arguments: object) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, action, *arguments)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer:
            timer.cancel()
