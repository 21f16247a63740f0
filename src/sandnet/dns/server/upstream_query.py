"""One forwarded question: when each upstream server is asked, and which answer is selected.

Servers are asked in short intervals, but their answers take precedence in the order of the servers, as in a C library
(glibc's ``res_send``), which asks the next server only after seconds. The answer of a later server is held until the
earlier servers have failed, or have been silent for a while. So a name that only the first server knows resolves even
if the second one denies it faster, and a server that is down costs seconds only once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Final

from sandnet.dns import message
from sandnet.dns.message import Question
from sandnet.dns.server.upstream_sockets import LARGEST, Server, connected, exchange, release
from sandnet.model.address import Address

STAGGER: Final = 0.3
"""Seconds after which the next server is asked too."""
STAGGERED: Final = 0.9
"""Maximum seconds until the last of many servers is asked."""
RESEND: Final = 0.5
"""Retransmission timeout: seconds after which a datagram is sent again; doubled each time."""
HOLD_POSITIVE: Final = 1.5
"""Seconds for which records of a later server are held: long enough for a lost datagram."""
HOLD_NEGATIVE: Final = 4.0
"""Seconds for which a negative answer of a later server is held: a little less than the time that a C library waits
for a silent server."""
HOLD_PROBE: Final = 0.3
"""Seconds for which a negative answer of a later server is held if the earlier one was silent before and may be
back."""
STREAM: Final = 2.5
"""Seconds for an answer over TCP."""
_GOOD: Final = (message.NOERROR, message.NXDOMAIN)
"""Codes of valid answers; another code may be a problem of one server (RFC 1035 section 4.1.1)."""
_FALSE_ANSWERS: Final = 64
"""Maximum datagrams read from a socket at once: forged answers must not keep the process busy."""

Run = Callable[[Callable[[], None]], None]
"""Function that does a piece of work when the client's CPU budget allows."""


class Race:
    """A question that is sent to servers until an answer is selected.

    Args:
        query: a complete message; it is sent with a new id.
        question: its question.
        row: servers in the order of preference.
        silent: the servers that were silent before. They are asked together with the next one, and not waited for.
        port: port of the servers.
        limit: maximum bytes of an answer over TCP that the client accepts; ``LARGEST``: it uses TCP itself.
        timeout: maximum seconds to wait for a server.
        run: does work within the client's CPU budget.
        stream: takes a slot for a TCP retry; returns false if none is free.
    """

    def __init__(
        self,
        query: bytes,
        question: Question,
        row: Sequence[Server],
        *,
        silent: Collection[Server],
        port: int,
        limit: int,
        timeout: float,
        run: Run,
        stream: Callable[[], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._query = os.urandom(2) + query[2:]
        self._question = question
        self._row = tuple(dict.fromkeys(row))
        self._silent = silent
        self._port = port
        self._limit = limit
        self._timeout = timeout
        self._run = run
        self._stream = stream
        self._waiting = deque(self._row)
        self._stagger = min(STAGGER, STAGGERED / max(1, len(row) - 1))
        self._resend_after = RESEND
        self._queried: dict[Server, socket.socket] = {}
        self._streams: dict[Server, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failed: set[Server] = set()
        self._good: dict[Server, bytes] = {}
        """Valid answers by server; they may have to wait for earlier servers."""
        self._fallback: bytes | None = None
        """The first answer that is not valid."""
        self.since: dict[Server, float] = {}
        """Times at which the servers were asked (``time.monotonic``)."""
        self.received: set[Server] = set()
        """Servers that sent any answer."""
        self.began = time.monotonic()
        self.winner: asyncio.Future[bytes | None] = self._loop.create_future()

    def start(self, seconds: float) -> None:
        """Ask the first server; after ``seconds`` the best answer so far is selected."""
        self._schedule("deadline", seconds, lambda: self.winner.set_result(self._best()))
        self._schedule("resend", self._resend_after, self._resend)
        self._next()

    def close(self) -> None:
        """Cancel all timers and close all sockets; late answers arrive at a closed port."""
        for timer in self._timers.values():
            timer.cancel()
        for stream in self._streams.values():
            stream.cancel()
        for server in tuple(self._queried):
            self._close_socket(server)
        self._waiting.clear()

    def _best(self) -> bytes | None:
        return next((self._good[server] for server in self._row if server in self._good), self._fallback)

    def unanswered(self) -> list[Server]:
        """Return the servers that were asked and did not answer, if another one did."""
        return [server for server in self._queried if server not in self.received] if self._good else []

    def _schedule(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()
        self._timers[name] = self._loop.call_later(seconds, self._run, lambda: self._if_open(work))

    def _if_open(self, work: Callable[[], None]) -> None:
        if not self.winner.done():
            work()

    def _next(self) -> None:
        """Ask the next server, together with the silent ones before it."""
        if timer := self._timers.pop("next", None):
            timer.cancel()
        while self._waiting:
            server = self._waiting.popleft()
            if not self._ask(server):
                self._failed.add(server)
            elif server not in self._silent:
                break
        if self._waiting:
            self._schedule("next", self._stagger, self._next)
        self._finish()

    def _ask(self, server: Server) -> bool:
        try:
            out = connected(server, self._port)
        except OSError:
            return False
        self._queried[server] = out
        self.since[server] = time.monotonic()
        try:
            out.send(self._query)
        except BlockingIOError:
            pass  # the same as a lost datagram: it is sent again
        except OSError:
            release(server, self._queried.pop(server))
            return False
        self._loop.add_reader(out.fileno(), self._readable, server, out)
        return True

    def _resend(self) -> None:
        for out in self._queried.values():
            try:
                out.send(self._query)
            except OSError:
                continue  # an error of an earlier datagram: reading the socket returns it too
        self._resend_after *= 2
        self._schedule("resend", self._resend_after, self._resend)

    def _readable(self, server: Server, out: socket.socket) -> None:
        self._loop.remove_reader(out.fileno())  # until the work is done, which may wait for the budget
        self._run(lambda: self._read(server, out))

    def _read(self, server: Server, out: socket.socket) -> None:
        if self._queried.get(server) is not out:
            return
        try:
            for _ in range(_FALSE_ANSWERS):
                answer = out.recv(LARGEST)
                if message.matches(self._query, self._question, answer):
                    self._received(server, answer)
                    return
        except BlockingIOError:
            pass
        except OSError:  # no process listens there (ECONNREFUSED), or there is no route to it
            self._close_socket(server)
            self._fail(server)
            return
        self._loop.add_reader(out.fileno(), self._readable, server, out)

    def _received(self, server: Server, answer: bytes) -> None:
        self.received.add(server)
        self._close_socket(server)
        if not message.is_truncated(answer):
            self._evaluate(server, answer)
        elif self._stream():
            self._streams[server] = self._loop.create_task(self._ask_by_tcp(server, answer))
        else:
            self._take(server, b"", answer)

    async def _ask_by_tcp(self, server: Server, truncated: bytes) -> None:
        answer = b""
        try:
            async with asyncio.timeout(STREAM):
                answer = await exchange(self._query, server, self._port)
        except (OSError, EOFError):  # a TimeoutError is an OSError
            pass
        del self._streams[server]
        self._run(lambda: self._if_open(lambda: self._take(server, answer, truncated)))

    def _take(self, server: Server, answer: bytes, truncated: bytes) -> None:
        """Evaluate the answer over TCP, or the truncated one over UDP if the client can ask again over TCP itself."""
        if message.matches(self._query, self._question, answer) and len(answer) <= self._limit:
            self._evaluate(server, answer)
        elif self._limit < LARGEST:
            self._evaluate(server, truncated)
        else:
            self._fail(server)

    def _evaluate(self, server: Server, answer: bytes) -> None:
        if message.rcode(answer) in _GOOD and not message.is_lame(answer):
            self._good[server] = answer
            self._finish()
        else:
            self._fallback = self._fallback or answer
            self._fail(server)

    def _fail(self, server: Server) -> None:
        self._failed.add(server)
        self._next()

    def _finish(self) -> None:
        """Select the first valid answer in the order of the servers, if its hold time is over; else set a timer."""
        if self.winner.done():
            return
        first = next((server for server in self._row if server in self._good), None)
        if first is None:
            if not (self._queried or self._streams or self._waiting):
                self.winner.set_result(self._fallback)
            return
        positive = message.is_positive(self._good[first])
        earlier = [each for each in takewhile(first.__ne__, self._row) if self._is_awaited(each, first)]
        until = max((self.began + self._hold(each, positive) for each in earlier), default=0.0)
        rest = until - time.monotonic()
        if rest <= 0:
            self.winner.set_result(self._good[first])
        else:
            self._schedule("hold", rest, self._finish)

    def _is_awaited(self, server: Server, answered: Server) -> bool:
        """Return whether a server may still send an answer that takes precedence over the answer of another.

        The same server may be in the row twice, asked from different namespaces.
        """
        return server not in self._failed and _address(server) != _address(answered)

    def _hold(self, server: Server, positive: bool) -> float:
        if server in self._silent:
            return 0.0 if positive else HOLD_PROBE
        return min(self._timeout, HOLD_POSITIVE if positive else HOLD_NEGATIVE)

    def _close_socket(self, server: Server) -> None:
        out = self._queried.pop(server)
        self._loop.remove_reader(out.fileno())
        release(server, out)


def _address(server: Server) -> Address:
    return server if isinstance(server, Address) else server.address
