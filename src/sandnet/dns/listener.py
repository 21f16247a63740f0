"""The two sockets at which one asker is answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from sandnet.dns.answers import Answering, Client
from sandnet.dns.stream import Connection

BATCH: Final = 64
"""Datagrams answered before the other askers get their turn: about a millisecond."""
_LONGEST_QUERY: Final = 4096
"""Bytes taken of a datagram; questions have less than 300 and a few options."""
_BREATH: Final = 1.0
"""Seconds without new connections when the process is out of descriptors."""

Admit = Callable[[Client], bool]
"""Whether a client may have one connection more; counts it when it may."""


class Listener:
    """Reads questions from a UDP socket and a listening TCP socket and has them answered.

    Both sockets are non-blocking and belong to the listener from now on.
    """

    def __init__(
        self, client: Client, udp: socket.socket, tcp: socket.socket, answers: Answering, admit: Admit
    ) -> None:
        self.client = client
        self._udp = udp
        self._tcp = tcp
        self._answers = answers
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._connections: set[Connection] = set()
        self._loop.add_reader(udp.fileno(), self._read)
        self._loop.add_reader(tcp.fileno(), self._accept)

    def close(self) -> None:
        """Close the sockets and connections at once."""
        self._shut(self._udp)
        self._shut(self._tcp)
        for connection in tuple(self._connections):
            connection.abort()

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """The UDP and the TCP socket."""
        return self._udp, self._tcp

    def drain(self) -> None:
        """Take no new questions, in favour of a successor that reads the same sockets. The UDP socket stays open for
        answers."""
        self._loop.remove_reader(self._udp.fileno())
        self._shut(self._tcp)

    def _shut(self, listening: socket.socket) -> None:
        if self._pause and listening is self._tcp:
            self._pause.cancel()
        if listening.fileno() >= 0:
            self._loop.remove_reader(listening.fileno())
            listening.close()

    def _read(self) -> None:
        """Answer what is waiting, but no more than a fair share."""
        udp, client, answer = self._udp, self.client, self._answers.answer
        for _ in range(BATCH):
            try:
                query, source = udp.recvfrom(_LONGEST_QUERY)
            except BlockingIOError:
                return
            answer(client, query, partial(self._send, source), tcp=False)

    def _send(self, source: tuple[str, int], answer: bytes) -> None:
        try:
            self._udp.sendto(answer, source)
        except OSError:  # its buffer is full, or the asker is gone: it will ask again
            self._answers.unsent()

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                accepted, _ = self._tcp.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                self._take_a_breath()
                return
            if self._admit(self.client):
                self._loop.create_task(self._serve(accepted))
            else:
                self._answers.refused()
                accepted.close()

    def _take_a_breath(self) -> None:
        """Out of descriptors or memory: the socket stays readable, so looking again at once would spin."""
        self._loop.remove_reader(self._tcp.fileno())
        self._pause = self._loop.call_later(_BREATH, self._loop.add_reader, self._tcp.fileno(), self._accept)

    async def _serve(self, accepted: socket.socket) -> None:
        def made() -> Connection:
            return Connection(self.client, self._answers, self._connections)

        try:
            await self._loop.connect_accepted_socket(made, accepted)
        except OSError:
            self.client.connections -= 1
            accepted.close()
