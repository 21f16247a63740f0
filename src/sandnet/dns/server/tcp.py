"""DNS over TCP: two bytes of length before each message, many messages on one connection (RFC 7766).

The sockets are read and written directly, not by streams of asyncio: these read hundreds of KiB at once and buffer all
data that they cannot send. Both would exceed the client's limits.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from sandnet.dns import message
from sandnet.dns.server.budget import clock
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.query_handler import Answering, ClientState, Peer

IDLE: Final = 10.0
"""Idle timeout: seconds without a complete question after which a connection is closed."""
_READ: Final = 4096
"""Bytes read at once: some dozens of questions."""
UNSENT: Final = 2 + message.LARGEST_TCP
"""Maximum bytes of answers buffered for a client that does not read; beyond it, its connection is closed."""
_SENDING: Final = 64 << 10
_RECEIVING: Final = 16 << 10
"""Bytes that the kernel buffers for a connection; it doubles them (socket(7))."""
_HERE: Final = ("", 0)
"""Placeholder for the peer: answers are sent over the connection itself."""


class TcpConnection:
    """One connection of a client.

    Answers may be in another order than their questions (RFC 7766, 6.2.1.1). Backpressure: while a client does not read
    its answers, no further questions are read from it.

    Args:
        client: owner of the connection.
        answers: handler of the questions.
        accepted: the socket; the connection takes ownership.
        peers: the connections of the listener; it contains this one while it is open.
        slots: for connections; closing releases the connection's slot.
    """

    def __init__(
        self,
        client: ClientState,
        answers: Answering,
        accepted: socket.socket,
        peers: set[TcpConnection],
        slots: Shares,
    ) -> None:
        self._client = client
        self._answers = answers
        self._socket = accepted
        self._peers = peers
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent = bytearray()
        self._pending = 0
        """Number of questions without an answer."""
        self._is_new = True
        """No question of it has been answered."""
        self._ended = False
        self._closed = False
        self._reading = False
        self._processing = False
        self._queued = False
        self._last = clock()
        """Time of the last complete question, or of the begin of the connection."""
        self._timer = self._loop.call_later(IDLE, self._expire)
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDING)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVING)
        peers.add(self)
        self._finish()

    @property
    def awaits_answer(self) -> bool:
        """Whether the client waits for an answer, or has not asked yet: it may have connected this moment."""
        return not self._closed and bool(self._is_new or self._pending or self._unsent or self._next_size())

    def close(self) -> None:
        """Close at once; pending answers are dropped."""
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
        self._slots.release()

    def _readable(self) -> None:
        until = self._client.budget.begin()
        if not until:
            return  # the socket is still readable in the next iteration
        try:
            data = self._socket.recv(_READ)
            self._received += data
            self._ended = not data
            self._process(until)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        finally:
            self._client.budget.end()

    def _writable(self) -> None:
        until = self._client.budget.begin()
        if not until:
            return
        try:
            del self._unsent[: self._socket.send(self._unsent)]
            if not self._unsent:
                self._loop.remove_writer(self._socket.fileno())
                self._process(until)
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        finally:
            self._client.budget.end()

    def _continue(self) -> None:
        """Process received questions that had to wait for the client's next time slice."""
        self._queued = False
        if not self._closed:
            self._process(self._client.budget.until)

    def _process(self, until: float) -> None:
        """Answer the received complete questions, until the end of the client's time slice."""
        self._processing = True
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
        self._processing = False
        self._finish()

    def _next_size(self) -> int:
        """Return the size of the next message if it can be processed now, else 0.

        A message of a wrong size is processed before it has arrived completely. -1 stands for a message of size 0.
        """
        if self._closed or self._unsent or len(self._received) < 2:
            return 0
        size = int.from_bytes(self._received[:2], "big")
        valid = message.HEADER_SIZE <= size <= message.LARGEST_QUERY
        return 0 if valid and len(self._received) < 2 + size else size or -1

    def _send(self, _: Peer, answer: bytes) -> None:
        self._pending -= 1
        self._is_new = False
        if self._closed:
            return
        try:
            self._write(len(answer).to_bytes(2, "big") + answer)
        except OSError:  # the client has closed the connection, or does not read
            self._answers.unsent()
            self.close()
        else:
            self._finish()

    def _write(self, frame: bytes) -> None:
        """Send as much of a frame as the kernel accepts, and buffer the rest.

        Raises:
            OSError: the connection is broken, or the buffer would exceed :data:`UNSENT`.
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
        """Continue after a step.

        New data is read only when all received questions are processed. The connection is closed after the client's
        end of the stream when every question is answered.
        """
        if self._closed or self._processing:
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

    def _read_if(self, enabled: bool) -> None:
        if enabled and not self._reading:
            self._loop.add_reader(self._socket.fileno(), self._readable)
        elif self._reading and not enabled:
            self._loop.remove_reader(self._socket.fileno())
        self._reading = enabled

    def _expire(self) -> None:
        now = clock()
        if self._pending and not self._unsent:
            self._last = now
        if now - self._last >= IDLE:
            self.close()
        else:
            self._timer = self._loop.call_later(self._last + IDLE - now, self._expire)
