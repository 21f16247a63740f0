"""One connection to the resolver: requests are pipelined, and answers arrive in the order of the requests."""

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
"""Seconds that a running resolver may take to answer the greeting."""


class ControlConnection:
    """An open connection; a separate task reads it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._reading = self._loop.create_task(self._read())
        self.release = ""
        """Release of the resolver."""
        self.pid = 0
        """Process id of the resolver."""

    @classmethod
    async def open(cls, path: str) -> ControlConnection:
        """Connect to the resolver and exchange greetings.

        Raises:
            OSError: no process listens there.
            TimeoutError: the process that listens does not answer.
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
        """Send a message at once, with duplicates of these sockets, and return a future of its answer.

        The sockets are closed here. The future fails with :class:`ConnectionError` when the connection is lost before
        the answer, and with :class:`Error` when the resolver refuses. Cancelling it does not disturb other requests.

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
        """Return the seconds since the oldest request without an answer was sent; 0: there is none."""
        return self._loop.time() - self._pending[0][0] if self._pending else 0.0

    async def lost_within(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the loss of the connection, and return whether it is lost."""
        await asyncio.wait([self._reading], timeout=seconds)
        return self._reading.done()

    def close(self) -> None:
        """Close the connection; pending requests fail."""
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
