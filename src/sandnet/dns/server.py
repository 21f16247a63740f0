"""The resolver as a whole: its names, and a listener inside every asker's namespace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from sandnet.dns.answers import Answers, Client
from sandnet.dns.base import Asker, Change, Explanation, Names, NoAsker
from sandnet.dns.host import HostAnswers
from sandnet.dns.listener import Listener
from sandnet.dns.protocol import Counts
from sandnet.dns.resolver import explain
from sandnet.dns.table import Table
from sandnet.errors import Error, not_found

Sockets = tuple[socket.socket, socket.socket]
OpenSockets = Callable[[str, int], Sockets]
"""Makes the UDP and TCP socket in the namespace at a path with that inode, or raises :class:`Error`."""

CONNECTIONS: Final = 32
"""TCP connections of one asker at most."""
ALL_CONNECTIONS: Final = 1024
"""TCP connections of all askers together."""
_TOLD: Final = 100
"""Problems told at most."""


class Draft:
    """All names and askers, put together piece by piece: a long list at once would hold up the answers."""

    def __init__(self) -> None:
        self.table = Table()
        self.networks: dict[str, None] = {}
        """Ids of those on which there are names, in order."""

    def add(self, changes: Sequence[Change]) -> None:
        """Make changes to it."""
        self.table = self.table.changed(*changes)
        self.networks |= dict.fromkeys(_networks(changes))


class Server:
    """Serves the askers it is told of. Use it on one event loop.

    Args:
        answers: holds the names.
        open_sockets: called on a thread of its own, which it may take into other namespaces and back.
        connections: TCP connections of one asker at most.
    """

    def __init__(self, answers: Answers, open_sockets: OpenSockets, *, connections: int = CONNECTIONS) -> None:
        self._answers = answers
        self._open_sockets = open_sockets
        self._connections = connections
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sockets")
        self._changing = asyncio.Lock()
        self._listeners: dict[str, Listener] = {}
        self._others: list[Listener] = []
        self._host = HostAnswers(answers)
        self._problems: dict[str, str] = {}
        """By container id."""
        self._troubles: list[str] = []

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make changes; when this returns they are in force, and every new asker can ask."""
        async with self._changing:
            self._answers.table = self._answers.table.changed(*changes)
            self._host.see(dict.fromkeys((*self._host.client.asker.networks, *_networks(changes))))
            await self._settle({change.container_id for change in changes if isinstance(change, Asker | NoAsker)})

    async def replace(self, draft: Draft) -> None:
        """Make exactly these the names and askers; what is the same goes on without a gap."""
        async with self._changing:
            self._answers.table = draft.table
            self._host.see(draft.networks)
            await self._settle({*self._answers.table.askers, *self._listeners, *self._problems})

    async def retry(self) -> None:
        """Open the sockets that could not be opened before."""
        if self._problems:
            async with self._changing:
                await self._settle(set(self._problems))

    def problems(self) -> tuple[str, ...]:
        """Of every asker that is not served, in words; a hundred at most."""
        return (*self._troubles, *self._problems.values())[:_TOLD]

    def note(self, trouble: str) -> None:
        """Tell of a trouble that lasts, as long as this process does."""
        self._troubles.append(trouble)

    def explain(self, container_id: str, name: str) -> Explanation:
        """What the asker would be answered.

        Raises:
            Error: ``NOT_FOUND`` the asker is not known.
        """
        asker = self._answers.table.askers.get(container_id)
        if asker is None:
            raise not_found("sandbox", container_id, "names are answered in sandboxes only")
        told = explain(self._answers.table, asker, name)
        upstreams = self._answers.servers(asker) if told.source == "upstream" else told.upstreams
        return msgspec.structs.replace(told, upstreams=upstreams)

    def counts(self) -> Counts:
        """What was done so far."""
        open_now = sum(listener.client.connections for listener in self._everybody())
        return msgspec.structs.replace(self._answers.counts(), connections=open_now)

    def serve_host(self, sockets: Sockets) -> None:
        """Answer the host itself, on sockets that are open already."""
        self._others.append(Listener(self._host.client, *sockets, self._host, self._admit))

    async def drain(self) -> None:
        """Leave the questions to a successor, and answer what is under way."""
        async with self._changing:
            await asyncio.gather(*(listener.drain() for listener in self._everybody()))
        await self._answers.finish()

    def close(self) -> None:
        """Close all sockets."""
        for listener in self._everybody():
            listener.close()
        self._thread.shutdown()

    def _everybody(self) -> list[Listener]:
        return [*self._listeners.values(), *self._others]

    async def _settle(self, container_ids: Iterable[str]) -> None:
        """Make the listeners of these askers what the names say."""
        missing = [asker for container_id in container_ids if (asker := self._keep(container_id))]
        if missing:
            opened = await asyncio.get_running_loop().run_in_executor(self._thread, self._open_all, missing)
            for asker, sockets in zip(missing, opened, strict=True):
                self._begin(asker, sockets)

    def _keep(self, container_id: str) -> Asker | None:
        """Keep or close the asker's listener; the asker is returned when it needs a new one."""
        self._problems.pop(container_id, None)
        wanted = self._answers.table.askers.get(container_id)
        listener = self._listeners.get(container_id)
        if listener and wanted and _same_namespace(listener.client.asker, wanted):
            listener.client.asker = wanted
            return None
        if listener:
            self._listeners.pop(container_id).close()
        return wanted

    def _open_all(self, askers: Sequence[Asker]) -> list[Sockets | str]:
        return [self._try_to_open(asker) for asker in askers]

    def _try_to_open(self, asker: Asker) -> Sockets | str:
        try:
            return self._open_sockets(asker.key, asker.inode)
        except Error as failure:
            return f"{asker.container_id} has no name server: {failure.message}"
        except Exception as failure:  # one asker's trouble must not be another's
            return f"{asker.container_id} has no name server: {failure!r}"

    def _begin(self, asker: Asker, sockets: Sockets | str) -> None:
        if isinstance(sockets, str):
            self._problems[asker.container_id] = sockets
        else:
            self._listeners[asker.container_id] = Listener(Client(asker), *sockets, self._answers, self._admit)

    def _admit(self, client: Client) -> bool:
        """Count one connection more of the client, if it may have it."""
        total = sum(listener.client.connections for listener in self._everybody())
        if client.connections >= self._connections or total >= ALL_CONNECTIONS:
            return False
        client.connections += 1
        return True


def _networks(changes: Sequence[Change]) -> Iterator[str]:
    """The networks on which names are given."""
    return (change.network_id for change in changes if isinstance(change, Names))


def _same_namespace(one: Asker, other: Asker) -> bool:
    return (one.key, one.inode) == (other.key, other.inode)
