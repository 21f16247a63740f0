"""The UDP and the TCP socket at which the resolver answers one client."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Final

from sandnet.dns import message
from sandnet.dns.server.budget import clock
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.query_handler import Answering, ClientState, Peer
from sandnet.dns.server.tcp import TcpConnection

_LONGEST: Final = message.LARGEST_QUERY + 1
"""Bytes read of a datagram: one more than allowed, so that a longer one is recognized."""
_ACCEPT_PAUSE: Final = 1.0
"""Delay in seconds before connections are accepted again when the process is out of descriptors."""


class Listener:
    """The reader of a client's questions from a UDP socket and a listening TCP socket.

    Both sockets are non-blocking; the listener takes ownership. Questions beyond the client's time slice stay in the
    sockets.

    Args:
        client: owner of the questions.
        udp: for datagrams.
        tcp: for connections.
        answers: handler of the questions.
        slots: for TCP connections of all clients.
    """

    def __init__(
        self, client: ClientState, udp: socket.socket, tcp: socket.socket, answers: Answering, slots: Shares
    ) -> None:
        self.client = client
        self._udp = udp
        self._tcp = tcp
        self._answers = answers
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._connections: set[TcpConnection] = set()
        self._loop.add_reader(udp.fileno(), self._read)
        self._loop.add_reader(tcp.fileno(), self._accept)

    def close(self) -> None:
        """Close the sockets and connections at once."""
        self._shut(self._udp)
        self._shut(self._tcp)
        for connection in tuple(self._connections):
            connection.close()

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """The UDP and the TCP socket."""
        return self._udp, self._tcp

    def drain(self) -> None:
        """Accept no new questions: a successor reads the same sockets. The UDP socket stays open for answers."""
        self._loop.remove_reader(self._udp.fileno())
        self._shut(self._tcp)

    @property
    def awaits_answers(self) -> bool:
        """Whether the client of a connection waits for an answer; see :attr:`TcpConnection.awaits_answer`."""
        return any(connection.awaits_answer for connection in self._connections)

    def _shut(self, listening: socket.socket) -> None:
        if self._pause and listening is self._tcp:
            self._pause.cancel()
        if listening.fileno() >= 0:
            self._loop.remove_reader(listening.fileno())
            listening.close()

    def _read(self) -> None:
        """Answer the datagrams in the socket, as long as the client's time slice lasts."""
        budget = self.client.budget
        until = budget.begin()
        if not until:
            return
        sources = self.client.settings.sources
        udp, client, answer, send = self._udp, self.client, self._answers.answer, self._send
        try:
            while clock() < until:
                query, source = udp.recvfrom(_LONGEST)
                if sources and ip_address(source[0]) not in sources:
                    continue
                answer(client, query, send, source, tcp=False)
        except BlockingIOError:
            pass
        finally:
            budget.end()

    def _send(self, source: Peer, answer: bytes) -> None:
        try:
            self._udp.sendto(answer, source)
        except OSError:  # the buffer is full, or the program has exited; a running program asks again
            self._answers.unsent()

    def _accept(self) -> None:
        budget = self.client.budget
        until = budget.begin()
        try:
            while clock() < until:
                self._begin(*self._tcp.accept())
        except (BlockingIOError, ConnectionError):
            pass
        except OSError:
            self._pause_accepting()
        finally:
            if until:
                budget.end()

    def _begin(self, accepted: socket.socket, source: Peer) -> None:
        """Serve a connection if a slot is free, else close it."""
        sources = self.client.settings.sources
        if sources and ip_address(source[0]) not in sources:
            accepted.close()
        elif self._slots.take(self.client.connections):
            self.client.connections += 1
            TcpConnection(self.client, self._answers, accepted, self._connections, self._slots)
        else:
            self._answers.refused()
            accepted.close()

    def _pause_accepting(self) -> None:
        """Stop accepting for a while, without descriptors or memory: the readable socket would cause a busy loop."""
        self._loop.remove_reader(self._tcp.fileno())
        self._pause = self._loop.call_later(_ACCEPT_PAUSE, self._loop.add_reader, self._tcp.fileno(), self._accept)
