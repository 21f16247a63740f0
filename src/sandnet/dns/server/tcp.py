"""Questions over TCP: two bytes of length before each message, many on one connection (RFC 7766).

The sockets are read and written directly, not by streams of asyncio: those read hundreds of KiB at once and hold what
they cannot send, and both would be out of the asker's bounds.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from sandnet.dns import message
from sandnet.dns.server.budget import clock
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.query_handler import Answering, AskingClient, Peer

IDLE: Final = 10.0
"""Seconds without a whole question after which a connection is closed."""
_READ: Final = 4096
"""Bytes read at once: some dozens of questions."""
UNSENT: Final = 2 + message.LARGEST_TCP
"""Bytes of answers held for an asker that does not read; with more its connection is closed."""
_SENDING: Final = 64 << 10
_RECEIVING: Final = 16 << 10
"""Bytes of a connection that the kernel holds; it doubles them (socket(7))."""
_HERE: Final = ("", 0)
"""A connection's answers go to where it leads."""


class TcpConnection:
    """One connection of an asker.

    Answers may come in another order than their questions (RFC 7766, 6.2.1.1). An asker that does not read its answers
    is not read from either.

    Args:
        client: whose it is.
        answers: has questions answered.
        accepted: the socket, which belongs to the connection from now on.
        peers: the connections of the listener; this one is among them while it is open.
        places: where the connection has a place, to be given back.
    """

    def __init__(
        self,
        client: AskingClient,
        answers: Answering,
        accepted: socket.socket,
        peers: set[TcpConnection],
        places: Shares,
    ) -> None:
        self._client = client
        self._answers = answers
        self._socket = accepted
        self._peers = peers
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent = bytearray()
        self._pending = 0
        """Questions whose answers are still to come."""
        self._ended = False
        self._closed = False
        self._reading = False
        self._taking = False
        self._queued = False
        self._last = clock()
        """When a whole question came last, or the connection began."""
        self._timer = self._loop.call_later(IDLE, self._expire)
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDING)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVING)
        peers.add(self)
        self._finish()

    def close(self) -> None:
        """Close at once; answers still to come are dropped."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._received.clear()
        self._unsent.clear()
        self._peers.discard(self)
        self._client.connections -= 1
        self._places.give_back()

    def _readable(self) -> None:
        until = self._client.budget.begin()
        if not until:
            return  # it is readable in the next turn, too
        try:
            data = self._socket.recv(_READ)
            self._received += data
            self._ended = not data
            self._take(until)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        finally:
            self._client.budget.end(until)

    def _writable(self) -> None:
        until = self._client.budget.begin()
        if not until:
            return
        try:
            del self._unsent[: self._socket.send(self._unsent)]
            if not self._unsent:
                self._loop.remove_writer(self._socket.fileno())
                self._take(until)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        finally:
            self._client.budget.end(until)

    def _continue(self) -> None:
        """Work off what was received and had to wait for the asker's next slice."""
        self._queued = False
        until = self._client.budget.begin()
        if until and not self._closed:
            self._take(until)

    def _take(self, until: float) -> None:
        """Have the whole questions answered that were received, until the moment when others get their turn."""
        self._taking = True
        while (size := self._next_size()) and clock() < until:
            if not message.HEADER_SIZE <= size <= message.LARGEST_QUERY:
                self._answers.refused()
                self.close()
                break
            query = bytes(self._received[2 : 2 + size])
            del self._received[: 2 + size]
            self._last = clock()
            self._pending += 1
            if not self._answers.answer(self._client, query, self._send, _HERE, tcp=True):
                self._pending -= 1
        self._taking = False
        self._finish()

    def _next_size(self) -> int:
        """Return the size of the next message, if it is to be looked at now; 0: it is not.

        A message that is too long or too short is looked at before it is there as a whole; -1 stands for size 0.
        """
        if self._closed or self._unsent or len(self._received) < 2:
            return 0
        size = int.from_bytes(self._received[:2], "big")
        sound = message.HEADER_SIZE <= size <= message.LARGEST_QUERY
        return 0 if sound and len(self._received) < 2 + size else size or -1

    def _send(self, _: Peer, answer: bytes) -> None:
        self._pending -= 1
        if self._closed:
            return
        try:
            self._write(len(answer).to_bytes(2, "big") + answer)
        except OSError:  # the asker has gone, or does not read
            self._answers.unsent()
            self.close()
        else:
            self._finish()

    def _write(self, frame: bytes) -> None:
        """Send a frame as far as the kernel takes it, and hold the rest.

        Raises:
            OSError: the connection is broken, or too much would be held.
        """
        if self._unsent:
            if len(self._unsent) + len(frame) > UNSENT:
                raise BrokenPipeError
            self._unsent += frame
            return
        try:
            sent = self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._unsent += frame[sent:]
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _finish(self) -> None:
        """Read only while what was read is worked off; close when all is said."""
        if self._closed or self._taking:
            return
        waiting = self._next_size() != 0
        if waiting and not self._queued:
            self._queued = True
            self._client.budget.run(self._continue)
            return
        if self._ended and not (waiting or self._pending or self._unsent):
            self.close()
            return
        self._read_if(not (waiting or self._unsent or self._ended))

    def _read_if(self, wanted: bool) -> None:
        if wanted and not self._reading:
            self._loop.add_reader(self._socket.fileno(), self._readable)
        elif self._reading and not wanted:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = wanted

    def _expire(self) -> None:
        now = clock()
        if self._pending and not self._unsent:
            self._last = now
        if now - self._last >= IDLE:
            self.close()
        else:
            self._timer = self._loop.call_later(self._last + IDLE - now, self._expire)
