"""A resolver in this process, whose askers' sockets are on the loopback device, in no namespace."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from sandnet.dns.answers import Answers
from sandnet.dns.base import Asker
from sandnet.dns.claim import claim
from sandnet.dns.control import Control
from sandnet.dns.hostservers import HostServers
from sandnet.dns.server import Server, Sockets
from sandnet.dns.upstream import Upstream
from sandnet.errors import Error, Kind


def asker(name: str, *networks: str) -> Asker:
    """A sandbox whose key is its name."""
    return Asker(container_id=name, key=name, inode=1, networks=tuple(f"id-{network}" for network in networks))


class LocalResolver:
    """Serves ``folder/dns.sock`` as the real process does, but for its life."""

    def __init__(self, folder: Path, release: str = "1.0") -> None:
        self.ports: dict[str, int] = {}
        """Where each asker asks, by key."""
        self.refuse: set[str] = set()
        """Keys at which no socket can be opened."""
        self.stopped: list[bool] = []
        self.answers = Answers(Upstream(deadline=0.5), HostServers(str(folder / "resolv.conf")))
        self.server = Server(self.answers, self._open, connections=4)
        self._folder = folder
        self._control = Control(self.server, release, self._complete, self.stopped.append)
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: asyncio.Server | None = None
        self.completed = 0

    async def start(self) -> None:
        """Serve; nothing when somebody does already."""
        listener = claim(str(self._folder), "1.0")
        if listener:
            self._serving = await asyncio.start_unix_server(self._serve, sock=listener)

    async def crash(self) -> None:
        """Be gone without a word."""
        if self._serving:
            self._serving.close()
        for writer in self._writers:
            writer.transport.abort()
        self.server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._control.serve(reader, writer)

    async def _complete(self) -> None:
        self.completed += 1

    def _open(self, key: str, _: int) -> Sockets:
        if key in self.refuse:
            raise Error(Kind.CONFLICT, "the port is taken")
        udp, tcp = (socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        tcp.listen()
        udp.setblocking(False)
        tcp.setblocking(False)
        self.ports[key] = tcp.getsockname()[1]
        return udp, tcp
