"""A server over real sockets in the test's own process."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from unittest.mock import patch

from sandnet.core.controller import Controller
from sandnet.serving import http_server
from sandnet.serving.http_server import Server
from sandnet.serving.sockets import ListeningSocket
from sandnet.serving.tls import Certificates
from sandnet.serving.unix_socket import open_unix
from tests.support.conditions import until
from tests.support.in_process import application, started

GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Running:
    """A server, and where it serves."""

    def __init__(self, server: Server, port: int, path: str = "") -> None:
        self.server, self.port, self._path = server, port, path

    async def reported(self, request: bytes, *, tls: ssl.SSLContext | None = None) -> bytes:
        """All that comes back before the server closes."""
        async with self.connected(tls) as (reader, writer):
            writer.write(request)
            return await asyncio.wait_for(reader.read(), 20)

    @asynccontextmanager
    async def connected(
        self, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._path:
            reader, writer = await asyncio.open_unix_connection(self._path)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@contextmanager
def shared_application(controller: Controller) -> Iterator[None]:
    """Let a server take the application that is built once: that takes longer than most tests."""
    with application(controller, None) as app, patch.object(http_server, "create_app", lambda *_, **__: app):
        yield


@asynccontextmanager
async def running(
    folder: Path,
    *,
    tls: Certificates | None = None,
    unix: bool = False,
    also: Sequence[ListeningSocket] = (),
    whole: bool = False,
) -> AsyncIterator[Running]:
    """A server on loopback TCP, or on a unix socket, and on further sockets; ``whole``: it builds its application."""
    async with started(folder) as parts, AsyncExitStack() as stack:
        if not whole:
            stack.enter_context(shared_application(parts.controller))
        path, port = (str(folder / "s.sock"), 0) if unix else ("", 0)
        if unix:
            listening = open_unix(path, 16)
        else:
            listening = socket.create_server(("127.0.0.1", 0))
            listening.setblocking(False)
            port = listening.getsockname()[1]
        url = f"unix://{path}" if unix else f"tcp://127.0.0.1:{port}"
        listener = ListeningSocket(url, listening, ours=True, tls=tls)
        server = Server(parts.controller, [listener, *also], (), tls)
        serving = asyncio.ensure_future(server.serve())
        await until(lambda: server.started)
        try:
            yield Running(server, port, path)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 15)
