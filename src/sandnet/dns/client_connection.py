"""One connection to the resolver: requests go out at once, answers come back in the same order."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sandnet.dns.control_channel import Channel
from sandnet.dns.control_protocol import Hello, Refused, Reply, Request, Welcome, decoded_reply, frame
from sandnet.errors import Error, Kind

_GREETING: Final = 2.0
"""Seconds a living resolver may take to say who it is."""


class ControlConnection:
    """An open connection, read by a task of its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._reading = self._loop.create_task(self._read())
        self.release = ""
        """Of the resolver."""
        self.pid = 0
        """Of the resolver's process."""

    @classmethod
    async def open(cls, path: str) -> ControlConnection:
        """Connect and greet.

        Raises:
            OSError: nobody is there.
            TimeoutError: somebody is, and says nothing.
            Error: ``UNAVAILABLE`` it is no resolver.
        """
        link = cls(Channel(await _connected(path)))
        try:
            welcome = await asyncio.wait_for(link.request(Hello("")), _GREETING)
            if not isinstance(welcome, Welcome):
                raise Error(Kind.UNAVAILABLE, f"no resolver serves at {path}", code="resolver_away")
        except BaseException:
            link.close()
            raise
        link.release, link.pid = welcome.release, welcome.pid
        return link

    def request(self, message: Request, sockets: Sequence[socket.socket] = ()) -> asyncio.Future[Reply]:
        """Send a message now, and these sockets with it, which are closed here; the future is its answer.

        It fails with :class:`ConnectionError` when the connection is lost first, and with :class:`Error` when
        the resolver refuses. Whoever stops waiting for it disturbs nobody.

        Raises:
            Error: ``INVALID`` the message is too large.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        body = frame(message)
        if self._reading.done():
            for each in sockets:
                each.close()
            answer.set_exception(ConnectionResetError("the connection to the resolver is lost"))
        else:
            self._pending.append((self._loop.time(), answer))
            self._channel.send(body, sockets)
        return answer

    def waiting(self) -> float:
        """Seconds since the oldest request without an answer was sent; 0 when there is none."""
        return self._loop.time() - self._pending[0][0] if self._pending else 0.0

    async def lost_within(self, seconds: float) -> bool:
        """Whether the connection is lost; waits at most so long for it."""
        await asyncio.wait([self._reading], timeout=seconds)
        return self._reading.done()

    def close(self) -> None:
        """Hang up; what is still pending fails."""
        self._reading.cancel()
        self._channel.close()
        self._fail()

    async def _read(self) -> None:
        with suppress(Error, OSError):
            while (body := await self._channel.receive()) is not None and self._pending:
                reply = decoded_reply(body)
                _, answer = self._pending.popleft()
                if not answer.done():
                    _finish(answer, reply)
        self._loop.call_soon(self._fail)  # after this task counts as done

    def _fail(self) -> None:
        while self._pending:
            _, answer = self._pending.popleft()
            if not answer.done():
                answer.set_exception(ConnectionResetError("the connection to the resolver is lost"))


async def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _finish(answer: asyncio.Future[Reply], reply: Reply) -> None:
    if isinstance(reply, Refused):
        answer.set_exception(Error(reply.kind, reply.message, reply.hint, reply.code))
    else:
        answer.set_result(reply)
