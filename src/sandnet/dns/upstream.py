"""Questions handed to other servers: over UDP, raced among them, over TCP where an answer did not fit.

Each question goes out with a fresh random id from a socket of its own, connected to its server: an answer
counts only when it comes from that address to that port with that id and that question (RFC 5452). The
first server is asked, after ``STAGGER`` or at once on an error the next one too, and the first good answer
wins. A server that lost to a later one goes to the back of the row for a while.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from sandnet.dns import packet
from sandnet.dns.inside import Inside
from sandnet.dns.packet import Question
from sandnet.model.address import Address, socket_address

Server = Address | Inside
"""A server that is asked from the host, or from inside a sandbox."""

PORT: Final = 53
DEADLINE: Final = 5.0
"""Seconds until a question without an answer is given up: the resolvers of C libraries ask again then."""
STAGGER: Final = 0.3
"""Seconds a server is given before the next one is asked too."""
STAGGERED: Final = 0.9
"""Seconds after which the last of many servers is asked at the latest."""
RESEND: Final = 1.2
"""Seconds after which a datagram counts as lost and is sent again."""
LATE: Final = 10.0
"""Seconds a server that was too slow stays at the back of the row."""
OUTSTANDING: Final = 2048
"""Questions under way of all sandboxes together: each holds a socket a server."""
SERVERS: Final = 8
"""Servers asked for one question at most."""
LARGEST: Final = 65535
"""Bytes of the longest DNS message."""
_GOOD: Final = (0, 3)
"""NOERROR and NXDOMAIN are answers; anything else may be one server's trouble (RFC 1035, 4.1.1)."""
_LATE_LIMIT: Final = 1024
_FALSE_ANSWERS: Final = 64
"""Datagrams read in one go from a socket: a liar must not keep the process busy."""


class Upstream:
    """Asks servers.

    Args:
        port: where the servers listen.
        deadline: seconds for one question.
        limit: questions under way at most.
    """

    def __init__(self, *, port: int = PORT, deadline: float = DEADLINE, limit: int = OUTSTANDING) -> None:
        self._port = port
        self._deadline = deadline
        self._limit = limit
        self._late: dict[Server, float] = {}
        self.outstanding = 0
        """Questions under way."""

    @property
    def full(self) -> bool:
        """No more can be asked now."""
        return self.outstanding >= self._limit

    async def ask(self, query: bytes, question: Question, servers: Sequence[Server], *, limit: int) -> bytes | None:
        """The best answer, with the query's own id; ``None`` when no server gave any in time.

        Args:
            query: a whole DNS message, passed on as it is but for its id.
            question: what it asks.
            servers: in the order of preference.
            limit: bytes the asker takes of an answer that had to be fetched over TCP; a longer one is given as
                the server truncated it, unless ``LARGEST`` is taken (the asker came over TCP itself).
        """
        race = _Race(query, question, self._ordered(servers), self._port, limit)
        self.outstanding += 1
        try:
            async with asyncio.timeout(self._deadline):
                race.start()
                answer = await race.winner
        except TimeoutError:
            answer = race.fallback
        finally:
            self.outstanding -= 1
            race.close()
            self._remember(race)
        return query[:2] + answer[2:] if answer else None

    def _ordered(self, servers: Sequence[Server]) -> list[Server]:
        now = time.monotonic()
        return sorted(servers, key=lambda server: self._late.get(server, 0.0) > now)[:SERVERS]

    def _remember(self, race: _Race) -> None:
        if race.victor is None:
            return
        self._late.pop(race.victor, None)
        if len(self._late) > _LATE_LIMIT:
            self._late.clear()
        self._late |= dict.fromkeys(race.overtaken, time.monotonic() + LATE)


class _Race:
    """One question on its way to one or more servers."""

    def __init__(self, query: bytes, question: Question, servers: Sequence[Server], port: int, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._query = os.urandom(2) + query[2:]
        self._question = question
        self._waiting = deque(servers)
        self._stagger = min(STAGGER, STAGGERED / max(1, len(servers) - 1))
        self._port = port
        self._limit = limit
        self._row = tuple(servers)
        self._asked: dict[Server, socket.socket] = {}
        self._streams: dict[Server, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.winner: asyncio.Future[bytes | None] = self._loop.create_future()
        self.fallback: bytes | None = None
        """The best of the answers that are not good."""
        self.victor: Server | None = None
        self.overtaken: tuple[Server, ...] = ()
        """Servers asked before the victor that have said nothing."""

    def start(self) -> None:
        """Ask the first server."""
        self._timers["resend"] = self._loop.call_later(RESEND, self._resend)
        self._next()

    def close(self) -> None:
        """Let go of everything; late answers meet a closed port."""
        for timer in self._timers.values():
            timer.cancel()
        for stream in self._streams.values():
            stream.cancel()
        for server in tuple(self._asked):
            self._hang_up(server)
        self._waiting.clear()

    def _next(self) -> None:
        """Ask one server more; without any, and none to wait for, the race is over."""
        if timer := self._timers.pop("next", None):
            timer.cancel()
        while self._waiting:
            server = self._waiting.popleft()
            if self._ask(server):
                if self._waiting:
                    self._timers["next"] = self._loop.call_later(self._stagger, self._next)
                return
        if not self._asked and not self._streams and not self.winner.done():
            self.winner.set_result(self.fallback)

    def _ask(self, server: Server) -> bool:
        if server in self._asked:
            return False
        try:
            out = _connected(server, self._port)
        except OSError:
            return False
        self._asked[server] = out
        try:
            out.send(self._query)
        except BlockingIOError:
            pass  # as good as lost on the way: it is sent again
        except OSError:
            _release(server, self._asked.pop(server))
            return False
        self._loop.add_reader(out.fileno(), self._readable, server, out)
        return True

    def _resend(self) -> None:
        for out in self._asked.values():
            try:
                out.send(self._query)
            except OSError:
                continue  # an error of an earlier datagram: reading finds it
        self._timers["resend"] = self._loop.call_later(RESEND, self._resend)

    def _readable(self, server: Server, out: socket.socket) -> None:
        try:
            for _ in range(_FALSE_ANSWERS):
                answer = out.recv(LARGEST)
                if packet.matches(self._query, self._question, answer):
                    self._received(server, answer)
                    return
        except BlockingIOError:
            return
        except OSError:  # nobody listens there (ECONNREFUSED), or there is no way to it
            self._lost(server)

    def _received(self, server: Server, answer: bytes) -> None:
        self._hang_up(server)
        if packet.is_truncated(answer):
            self._streams[server] = self._loop.create_task(self._ask_by_tcp(server, answer))
        else:
            self._judge(server, answer)

    async def _ask_by_tcp(self, server: Server, truncated: bytes) -> None:
        try:
            answer = await _exchange(self._query, server, self._port)
        except (OSError, EOFError):
            answer = b""
        del self._streams[server]
        fits = packet.matches(self._query, self._question, answer) and len(answer) <= self._limit
        if fits or self._limit < LARGEST:
            self._judge(server, answer if fits else truncated)
        else:
            self._next()

    def _judge(self, server: Server, answer: bytes) -> None:
        if packet.rcode(answer) in _GOOD:
            self.victor = server
            self.overtaken = tuple(early for early in takewhile(server.__ne__, self._row) if early in self._asked)
            if not self.winner.done():
                self.winner.set_result(answer)
        else:
            self.fallback = self.fallback or answer
            self._next()

    def _lost(self, server: Server) -> None:
        self._hang_up(server)
        self._next()

    def _hang_up(self, server: Server) -> None:
        out = self._asked.pop(server)
        self._loop.remove_reader(out.fileno())
        _release(server, out)


def _release(server: Server, out: socket.socket) -> None:
    if isinstance(server, Inside):
        server.pool.give_back(out)
    else:
        out.close()


def _connected(server: Server, port: int) -> socket.socket:
    if isinstance(server, Inside):
        return server.connected(port)
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    out = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        out.connect(socket_address(server, port))
    except BaseException:
        out.close()
        raise
    return out


async def _exchange(query: bytes, server: Server, port: int) -> bytes:
    """One question and its answer over a connection of its own (RFC 7766)."""
    if isinstance(server, Inside):
        return await server.exchange(query, port)
    reader, writer = await asyncio.open_connection(str(server), port)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
