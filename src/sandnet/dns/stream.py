"""Questions over TCP: two bytes of length before each message, many on one connection (RFC 7766)."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from sandnet.dns.answers import Answering, Client

IDLE: Final = 10.0
"""Seconds without a whole question after which a connection is closed."""
_TURN: Final = 32
"""Questions answered before others get their turn."""
_HEADER: Final = 12
"""Bytes of the shortest DNS message."""


class Connection(asyncio.Protocol):
    """One connection of an asker.

    Answers may come in another order than their questions (RFC 7766, 6.2.1.1). An asker that does not read
    its answers is not read from either, so what is held for it stays below a few hundred KiB.

    Args:
        peers: the connections of the listener; this one is among them while it is open.
    """

    def __init__(self, client: Client, answers: Answering, peers: set[Connection]) -> None:
        self._client = client
        self._answers = answers
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = bytearray()
        self._pending = 0
        self._busy = False
        self._clogged = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)  # a stream's, which uvloop does not derive from it
        self._peers.add(self)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed; answers still to come are dropped."""
        self._transport = None
        self._received.clear()
        self._client.connections -= 1
        self._peers.discard(self)
        if self._timer:
            self._timer.cancel()

    def abort(self) -> None:
        """Close at once."""
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """More of the stream."""
        self._received += data
        if not self._busy:
            self._take()

    def eof_received(self) -> bool:
        """The asker has asked all; true keeps the connection for the answers."""
        self._ended = True
        return self._pending > 0 or self._busy

    def pause_writing(self) -> None:
        """The asker does not read: stop reading its questions."""
        self._clogged = True

    def resume_writing(self) -> None:
        """The asker reads again."""
        self._clogged = False
        if not self._busy:
            self._take()

    def _take(self) -> None:
        """Have the whole questions answered that were received, a few at a time."""
        self._busy = False
        for _ in range(_TURN):
            if self._clogged or not self._transport:
                break
            size = int.from_bytes(self._received[:2], "big")
            if len(self._received) < 2 or len(self._received) < 2 + size:
                break
            if size < _HEADER:
                self.abort()
                break
            query = bytes(self._received[2 : 2 + size])
            del self._received[: 2 + size]
            self._ask(query)
        else:
            self._busy = True
            self._loop.call_soon(self._take)
        self._settle()

    def _ask(self, query: bytes) -> None:
        self._start_timer()
        self._pending += 1
        if not self._answers.answer(self._client, query, self._send, tcp=True):
            self._pending -= 1

    def _send(self, answer: bytes) -> None:
        self._pending -= 1
        if self._transport and not self._transport.is_closing():
            self._transport.write(len(answer).to_bytes(2, "big") + answer)
        self._settle()

    def _settle(self) -> None:
        """Read only while what was read is worked off; close when all is said."""
        if not self._transport or self._transport.is_closing():
            return
        if self._busy or self._clogged:
            self._transport.pause_reading()
        elif self._ended and not self._pending:
            self._transport.close()
        elif not self._ended:
            self._transport.resume_reading()

    def _start_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(IDLE, self._expire)

    def _expire(self) -> None:
        if self._pending and not self._clogged:
            self._start_timer()
        elif self._transport:
            self._transport.abort()
