"""Frames and file descriptors over a unix socket, on the event loop.

Streams of asyncio carry no descriptors, so this module reads and writes the socket itself. Descriptors arrive with the
first byte of the data they were sent with (unix(7)), so they have arrived when their frame is complete.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from sandnet import passed_descriptors
from sandnet.dns.control_protocol import LENGTH, MOST_DESCRIPTORS, checked_length

_PIECE: Final = 1 << 16
_MOST_UNCLAIMED: Final = 4 * MOST_DESCRIPTORS
"""Limit of received descriptors that no message has claimed yet."""


class Channel:
    """One connection. It owns the socket.

    Args:
        connection: a connected unix stream socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._outgoing: deque[tuple[memoryview, Sequence[socket.socket]]] = deque()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._waiter: asyncio.Future[None] | None = None
        self._is_watched = False
        """Whether the event loop watches the socket for data. It does from one message to the next: to begin and to end
        it takes a system call each."""
        self._broken = False
        self._waits_to_write = False

    async def receive(self) -> bytes | None:
        """Return the next message; ``None``: the peer closed the connection. Only one caller at a time.

        Raises:
            Error: ``INVALID`` the message is too long.
        """
        while (body := self._whole()) is None:
            await self._readable()
            if not self._read():
                return None
        return body

    def claim(self, count: int) -> list[socket.socket] | None:
        """Return ``count`` of the received sockets, in order; ``None``: there are fewer."""
        if count > len(self._descriptors):
            return None
        claimed = [socket.socket(fileno=self._descriptors.popleft()) for _ in range(count)]
        for each in claimed:
            each.setblocking(False)
        return claimed

    def send(self, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a frame, with duplicates of these sockets. They are closed after that, also after a failure."""
        if self._broken:
            _close_all(sockets)
            return
        self._outgoing.append((memoryview(data), sockets))
        if self._emptied.is_set():
            self._emptied.clear()
            self._write()

    async def flushed(self) -> None:
        """Wait until all data was written to the kernel, or the connection is lost."""
        await self._emptied.wait()

    def close(self) -> None:
        """Close the connection and all unclaimed descriptors."""
        if self._socket.fileno() >= 0:
            self._break()
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _whole(self) -> bytes | None:
        if len(self._received) < LENGTH:
            return None
        end = LENGTH + checked_length(self._received[:LENGTH])
        if len(self._received) < end:
            return None
        body = bytes(self._received[LENGTH:end])
        del self._received[:end]
        return body

    async def _readable(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._waiter = self._loop.create_future()
        if not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._socket.fileno(), self._wake)
        await self._waiter

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        else:  # no caller waits, so the data stay in the kernel, and the loop would report them without end
            self._is_watched = False
            self._loop.remove_reader(self._socket.fileno())

    def _read(self) -> bool:
        """Read the data that has arrived; return false at the end of the stream or after a failure."""
        try:
            received = passed_descriptors.receive(self._socket, _PIECE, MOST_DESCRIPTORS)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        self._descriptors.extend(received.descriptors)
        self._received += received.data
        # a message whose descriptors were truncated or dropped would be assigned the descriptors of another one
        return bool(received.data) and not received.truncated and len(self._descriptors) <= _MOST_UNCLAIMED

    def _write(self) -> None:
        try:
            while self._outgoing:
                self._write_some()
        except (BlockingIOError, InterruptedError):
            self._waits_to_write = True
            self._loop.add_writer(self._socket.fileno(), self._write)
            return
        except OSError:
            self._break()
        self._stop_waiting_to_write()
        self._emptied.set()

    def _write_some(self) -> None:
        data, sockets = self._outgoing[0]
        if sockets:
            sent = socket.send_fds(self._socket, [data], [each.fileno() for each in sockets], socket.MSG_NOSIGNAL)
            _close_all(sockets)
        else:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL)
        if sent < len(data):
            self._outgoing[0] = data[sent:], ()
        else:
            self._outgoing.popleft()

    def _break(self) -> None:
        """Stop sending: mark the connection as broken and close the sockets in the queue."""
        self._broken = True
        self._stop_waiting_to_write()
        while self._outgoing:
            _close_all(self._outgoing.popleft()[1])
        self._emptied.set()

    def _stop_waiting_to_write(self) -> None:
        if self._waits_to_write and self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket.fileno())
        self._waits_to_write = False


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
