"""Questions to servers from inside a client's sandbox, through a pool of sockets that were opened there.

A socket is used for one question at a time. Then it is disconnected from its server and its port (connect(2) with
``AF_UNSPEC``), so the next question has another source port.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.dns.base import SetClient
from sandnet.model.address import Address

_STALE: Final = 64
"""Maximum late datagrams that are discarded from a used socket."""
_PIECE: Final = 65535

Disconnect = Callable[[socket.socket], None]
"""Function that disconnects a socket from its peer and its port."""


def servers_inside(client: SetClient) -> tuple[Address, ...]:
    """Return the servers that are asked from inside the sandbox.

    First the servers in its own networks, then those that the host may not reach. Loopback means the host's, so it is
    excluded. A client on internal networks only has just the former ones.
    """
    if client.listen:
        return ()  # there is no namespace to ask from
    others = (server for server in client.upstreams if client.external and not server.is_loopback)
    return tuple(dict.fromkeys((*client.inside, *others)))


class Pool:
    """A pool of unconnected UDP and TCP sockets of one sandbox."""

    def __init__(self, disconnect: Disconnect) -> None:
        self._disconnect = disconnect
        self._idle: dict[tuple[int, int], list[socket.socket]] = {}
        """Free sockets by family and kind."""
        self._closed = False

    def add(self, sockets: Iterable[socket.socket]) -> None:
        """Add sockets to the pool."""
        for each in sockets:
            self._idle.setdefault((each.family, each.type), []).append(each)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions (4, 6) of its sockets."""
        return frozenset(_version(family) for family, _ in self._idle)

    def take(self, kind: socket.SocketKind, version: int) -> socket.socket:
        """Take a free socket from the pool; the caller must return it with :meth:`release`.

        Raises:
            OSError: ``EAGAIN`` all are in use.
        """
        idle = self._idle.get((socket.AF_INET if version == 4 else socket.AF_INET6, kind))
        if not idle:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return idle.pop()

    def release(self, used: socket.socket) -> None:
        """Reset a socket and return it to the pool. If the reset fails, close it."""
        if self._closed or not self._is_fresh(used):
            used.close()
        else:
            self._idle[used.family, used.type].append(used)

    def close(self) -> None:
        """Close all free sockets; those in use are closed when they are returned."""
        self._closed = True
        for idle in self._idle.values():
            for each in idle:
                each.close()
            idle.clear()

    def _is_fresh(self, used: socket.socket) -> bool:
        try:
            self._disconnect(used)
            used.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears an error of the last question
            if used.type == socket.SOCK_DGRAM:
                with suppress(BlockingIOError):
                    for _ in range(_STALE):
                        used.recv(_PIECE)
        except OSError:
            return False
        return True


class ServerInSandbox(NamedTuple):
    """A server that is asked from inside a sandbox."""

    address: Address
    pool: Pool

    def connected(self, port: int) -> socket.socket:
        """Return a UDP socket that is connected to the server.

        Raises:
            OSError: there is no route to it, or no socket is free.
        """
        connection = self.pool.take(socket.SOCK_DGRAM, self.address.version)
        try:
            connection.connect((str(self.address), port))
        except BaseException:
            self.pool.release(connection)
            raise
        return connection

    async def exchange(self, query: bytes, port: int) -> bytes:
        """Send a question over its own TCP connection and return the answer (RFC 7766).

        Raises:
            OSError, EOFError: there is no complete answer.
        """
        loop = asyncio.get_running_loop()
        connection = self.pool.take(socket.SOCK_STREAM, self.address.version)
        try:
            await loop.sock_connect(connection, (str(self.address), port))
            await loop.sock_sendall(connection, len(query).to_bytes(2, "big") + query)
            return await _received(connection, int.from_bytes(await _received(connection, 2), "big"))
        finally:
            self.pool.release(connection)


async def _received(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < count:
        piece = await loop.sock_recv(connection, count - len(found))
        if not piece:
            raise EOFError("the server has hung up")
        found += piece
    return found


def _version(family: int) -> int:
    return 4 if family == socket.AF_INET else 6
