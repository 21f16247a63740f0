"""The HTTP server: the application for each listener, start and stop, and the notification of the service manager."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn

from sandnet.api.app import create_app
from sandnet.api.middleware.browser_protection import BrowserProtection
from sandnet.api.plugin.asgi import PluginApp
from sandnet.core.controller import Controller
from sandnet.prerequisites import installed_release
from sandnet.serving.connection_limits import Gate
from sandnet.serving.http_connection import Connection
from sandnet.serving.sockets import BACKLOG, ListeningSocket, notify
from sandnet.serving.tls import Certificates

GRACE: Final = 10
"""Seconds that a stopping server gives to requests in flight."""
IDLE: Final = 5
"""Seconds for which a connection is kept after an answer."""
HANDSHAKE: Final = 10.0
"""Timeout of the TLS handshake, in seconds."""
UNIX_CONNECTIONS: Final = 1024
TCP_CONNECTIONS: Final = 256
"""Limit of TCP connections, counted apart: a client that exhausts TCP does not keep root from the unix socket."""
_PAUSE: Final = 0.1
"""Seconds without accepting, when the kernel has no descriptor or memory for a connection."""

_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Uvicorn with several listeners, which reports when it serves."""

    def __init__(
        self,
        controller: Controller,
        listeners: Sequence[ListeningSocket],
        names: Sequence[str],
        tls: Certificates | None = None,
    ) -> None:
        """Initialize without serving.

        Args:
            controller: started and stopped by the caller.
            listeners: the sockets to serve on.
            names: names by which TCP clients may call this server.
            tls: certificates of the listeners; their files are read again when they change, and on SIGHUP.
        """
        app = create_app(controller, version=installed_release())
        settings = uvicorn.Config(
            app,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(settings)
        self._controller = controller
        self._listeners = listeners
        self._tcp = partial(self._connection, BrowserProtection(app, names=names))
        self._unix = partial(self._connection, BrowserProtection(app, names=None), Gate(UNIX_CONNECTIONS))
        self._plugin = partial(self._connection, PluginApp(controller), Gate(UNIX_CONNECTIONS))
        self._tcp_gate = Gate(TCP_CONNECTIONS)
        self._tls = tls
        self._background: list[asyncio.Task[None]] = []
        if tls:
            controller.add_health_check(lambda: tls.problem)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on SIGTERM and SIGINT.

        uvicorn's own handler would raise them again before the stop is complete.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, then report it."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = []
        for each in self._listeners:
            if each.tls:
                self._background.append(loop.create_task(self._accept(each)))
            else:
                factory = partial(self._tcp, self._tcp_gate) if each.is_tcp else self._unix
                factory = self._plugin if each.plugin else factory
                self.servers.append(await loop.create_server(factory, sock=each.socket, backlog=BACKLOG))
        if self._tls:
            self._background.append(loop.create_task(self._tls.maintain()))
        self.started = True
        print(f"sandnet: ready on {' '.join(each.url for each in self._listeners)}", flush=True)
        notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams, which would never end by themselves, then wait for the requests in flight."""
        notify("STOPPING=1")
        for task in self._background:
            task.cancel()
        self._controller.events.close()
        await super().shutdown([each.socket for each in self._listeners])

    def _reload(self) -> None:
        if self._tls:
            self._tls.request_check()

    def _connection(self, app: BrowserProtection | PluginApp, gate: Gate, *, admitted: bool = False) -> Connection:
        return Connection(self.config, self.server_state, app=app, gate=gate, admitted=admitted)

    async def _accept(self, listener: ListeningSocket) -> None:
        """Accept connections, and close those above the limit before they cost a handshake."""
        loop = asyncio.get_running_loop()
        handshakes: set[asyncio.Task[None]] = set()
        while True:
            try:
                client, _address = await loop.sock_accept(listener.socket)
            except OSError as failure:
                _log.warning("cannot take a connection on %s: %s", listener.url, failure.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            if self._tcp_gate.enter():  # the connection leaves it
                task = loop.create_task(self._handshake(listener, client))
                handshakes.add(task)
                task.add_done_callback(handshakes.discard)
            else:
                self._tcp_gate.leave()
                client.close()

    async def _handshake(self, listener: ListeningSocket, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = self._tcp(self._tcp_gate, admitted=True)
        context = listener.tls.context if listener.tls else None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: connection, client, ssl=context, ssl_handshake_timeout=HANDSHAKE)
        except OSError as failure:  # ssl.SSLError is one
            connection.leave_gate()
            client.close()
            _log.debug("no TLS with a client of %s: %s", listener.url, failure)
