"""Sockets to upstream name servers, in the host's namespace or inside a sandbox."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from sandnet.dns import message
from sandnet.dns.server.sandbox_sockets import ServerInSandbox
from sandnet.model.address import Address, socket_address

LARGEST: Final = message.LARGEST_TCP
"""Bytes of the longest DNS message."""
RECEIVED: Final = 64 << 10
"""Bytes of answers that the kernel buffers for a question; it doubles them (socket(7))."""

Server = Address | ServerInSandbox
"""A server that is asked from the host, or from inside a sandbox."""


def connected(server: Server, port: int) -> socket.socket:
    """Return a UDP socket that is connected to the server.

    Raises:
        OSError: there is no route to it, or no socket is free.
    """
    if isinstance(server, ServerInSandbox):
        return server.connected(port)
    out = _opened(server, socket.SOCK_DGRAM)
    try:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        out.connect(socket_address(server, port))
    except BaseException:
        out.close()
        raise
    return out


def release(server: Server, out: socket.socket) -> None:
    """Release a socket that :func:`connected` returned."""
    if isinstance(server, ServerInSandbox):
        server.pool.release(out)
    else:
        out.close()


async def exchange(query: bytes, server: Server, port: int) -> bytes:
    """Send a question over its own TCP connection and return the answer (RFC 7766).

    Raises:
        OSError, EOFError: there is no complete answer.
    """
    if isinstance(server, ServerInSandbox):
        return await server.exchange(query, port)
    reader, writer = await asyncio.open_connection(sock=await _tcp_connected(server, port))
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


async def _tcp_connected(server: Address, port: int) -> socket.socket:
    """Connect, with the C library's reading of a zone: the event loop's own one opens a netlink socket."""
    out = _opened(server, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(out, (str(server), port))
    except BaseException:
        out.close()
        raise
    return out


def _opened(server: Address, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
