"""A resolver in this process, whose askers' sockets are on the loopback device, in no namespace."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from sandnet.dns.base import Change, SetClient
from sandnet.dns.control_protocol import Lack
from sandnet.dns.server.control import Control
from sandnet.dns.server.forwarder import Upstream
from sandnet.dns.server.host_nameservers import HostNameservers
from sandnet.dns.server.query_handler import QueryHandler
from sandnet.dns.server.resolver import Resolver
from sandnet.dns.takeover import OpenedSockets, claim
from sandnet.errors import Error, Kind


def asker(name: str, *networks: str) -> SetClient:
    """A sandbox whose key is its name."""
    return SetClient(container_id=name, key=name, inode=1, networks=tuple(f"id-{network}" for network in networks))


class LocalResolver:
    """Serves ``folder/dns.sock`` as the real process does, but for its life."""

    def __init__(self, folder: Path, release: str = "1.0", owner: int | None = None) -> None:
        self.ports: dict[str, int] = {}
        """Where each asker asks, by key."""
        self.refuse: set[str] = set()
        """Keys at which no socket can be opened."""
        self.stopped: list[bool] = []
        self.answers = QueryHandler(Upstream(deadline=0.5), HostNameservers(str(folder / "resolv.conf")))
        self.server = Resolver(self.answers, connections=4)
        self._folder = folder
        self._release = release
        self._control = Control(
            self.server, release, os.geteuid() if owner is None else owner, self._complete, self.stopped.append
        )
        self._listener: socket.socket | None = None
        self._clients: list[asyncio.StreamWriter] = []
        self.completed = 0

    async def start(self) -> None:
        """Serve; nothing when another program does already."""
        self._listener = await asyncio.to_thread(claim, str(self._folder), self._release)
        if self._listener:
            self._control.listen(self._listener)

    def leave(self) -> None:
        """Take no more callers."""
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    async def crash(self) -> None:
        """Be gone without a word."""
        self.leave()
        self._control.close()
        self.server.close()
        await asyncio.sleep(0)

    async def connect(self, key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a client's TCP socket, until :meth:`close` or earlier."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[key])
        self._clients.append(writer)
        return reader, writer

    def close(self) -> None:
        """Close the sockets of both sides."""
        self.server.close()
        for writer in self._clients:
            writer.transport.abort()

    def serve(self, *changes: Change) -> None:
        """Make changes, and give each asker its sockets."""
        self.server.apply(changes)
        for lack in self.server.missing_sockets():
            opened = self.open(lack.container_id, 1, lack)
            self.server.provide([opened.passed(lack.container_id)], opened.listening)

    async def _complete(self) -> None:
        self.completed += 1

    def open(self, key: str, inode: int, _: Lack) -> OpenedSockets:
        """What the daemon would open in a namespace.

        Raises:
            Error: the key is among those to refuse.
        """
        if key in self.refuse:
            raise Error(Kind.CONFLICT, "the port is taken")
        udp, tcp = (socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        tcp.listen()
        udp.setblocking(False)
        tcp.setblocking(False)
        self.ports[key] = tcp.getsockname()[1]
        return OpenedSockets(inode, (udp, tcp))
