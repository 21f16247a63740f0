"""Asking servers from inside an asker's sandbox, by sockets that were opened there.

A socket is used for one question at a time. Afterwards it is dissolved from its server and its port (connect(2) with
``AF_UNSPEC``), so the next question leaves from another port.
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
"""Datagrams thrown away from a socket that was used before."""
_PIECE: Final = 65535

Disconnect = Callable[[socket.socket], None]
"""Dissolves a socket from its peer and its port."""


def servers_inside(asker: SetClient) -> tuple[Address, ...]:
    """Servers that are asked from inside the sandbox: those it holds itself, then those that the host may not reach.

    Loopback is the host's, and an asker on internal networks only has the first ones.
    """
    others = (server for server in asker.upstreams if asker.external and not server.is_loopback)
    return tuple(dict.fromkeys((*asker.inside, *others)))


class Pool:
    """Unconnected UDP and TCP sockets of one sandbox."""

    def __init__(self, disconnect: Disconnect) -> None:
        self._disconnect = disconnect
        self._idle: dict[tuple[int, int], list[socket.socket]] = {}
        """By family and kind."""
        self._closed = False

    def add(self, sockets: Iterable[socket.socket]) -> None:
        """Take these into the pool."""
        for each in sockets:
            self._idle.setdefault((each.family, each.type), []).append(each)

    @property
    def versions(self) -> frozenset[int]:
        """The versions of IP that it has sockets of."""
        return frozenset(_version(family) for family, _ in self._idle)

    def take(self, kind: socket.SocketKind, version: int) -> socket.socket:
        """A socket, to be given back.

        Raises:
            OSError: ``EAGAIN`` all are in use.
        """
        idle = self._idle.get((socket.AF_INET if version == 4 else socket.AF_INET6, kind))
        if not idle:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return idle.pop()

    def give_back(self, used: socket.socket) -> None:
        """Make a socket as if it was new. One that cannot be is closed."""
        if self._closed or not self._is_fresh(used):
            used.close()
        else:
            self._idle[used.family, used.type].append(used)

    def close(self) -> None:
        """Close all; those in use are closed when they are given back."""
        self._closed = True
        for idle in self._idle.values():
            for each in idle:
                each.close()
            idle.clear()

    def _is_fresh(self, used: socket.socket) -> bool:
        try:
            self._disconnect(used)
            used.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # an error of the last question
            if used.type == socket.SOCK_DGRAM:
                with suppress(BlockingIOError):
                    for _ in range(_STALE):
                        used.recv(_PIECE)
        except OSError:
            return False
        return True


class ServerInSandbox(NamedTuple):
    """A server, asked from inside a sandbox."""

    address: Address
    pool: Pool

    def connected(self, port: int) -> socket.socket:
        """A UDP socket that is connected to the server.

        Raises:
            OSError: there is no way to it, or no socket is free.
        """
        out = self.pool.take(socket.SOCK_DGRAM, self.address.version)
        try:
            out.connect((str(self.address), port))
        except BaseException:
            self.pool.give_back(out)
            raise
        return out

    async def exchange(self, query: bytes, port: int) -> bytes:
        """One question and its answer over a connection of its own (RFC 7766).

        Raises:
            OSError, EOFError: there is no whole answer.
        """
        loop = asyncio.get_running_loop()
        out = self.pool.take(socket.SOCK_STREAM, self.address.version)
        try:
            await loop.sock_connect(out, (str(self.address), port))
            await loop.sock_sendall(out, len(query).to_bytes(2, "big") + query)
            return await _received(out, int.from_bytes(await _received(out, 2), "big"))
        finally:
            self.pool.give_back(out)


async def _received(out: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < count:
        piece = await loop.sock_recv(out, count - len(found))
        if not piece:
            raise EOFError("the server has hung up")
        found += piece
    return found


def _version(family: int) -> int:
    return 4 if family == socket.AF_INET else 6
