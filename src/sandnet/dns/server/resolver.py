"""The resolver: the name table, and a listener inside the namespace of every client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from sandnet.dns.base import Change, Explanation, RemoveClient, SetClient, SetNames
from sandnet.dns.control_protocol import HOST, Counts, Lack, Passed
from sandnet.dns.lookup import explain
from sandnet.dns.name_table import NameTable
from sandnet.dns.server.fair_share import Shares
from sandnet.dns.server.host_queries import HostQueries
from sandnet.dns.server.listener import Listener
from sandnet.dns.server.query_handler import ClientState, QueryHandler
from sandnet.dns.server.sandbox_sockets import Disconnect, Pool, servers_inside
from sandnet.errors import not_found

CONNECTIONS: Final = 32
"""Maximum TCP connections of one client."""
ALL_CONNECTIONS: Final = 1024
"""Maximum TCP connections of all clients together."""
FIRST_QUESTION: Final = 1.0
"""Seconds that clients have to finish their questions over TCP after a successor has taken the sockets."""
_PAUSE: Final = 0.005
_REPORTED: Final = 1000
"""Maximum number of clients without sockets that are reported."""
_SHARED: Final = 50
"""Clients whose sockets are sent with one message."""


class Draft:
    """A new set of all names and clients, built step by step: a long list at once would delay answers."""

    def __init__(self) -> None:
        self.table = NameTable()
        self.networks: dict[str, None] = {}
        """Ids of the networks that have names, in order."""

    def add(self, changes: Sequence[Change]) -> None:
        """Add changes to the draft."""
        self.table = self.table.changed(*changes)
        self.networks |= dict.fromkeys(_networks(changes))


class Resolver:
    """The server of all registered clients, on the sockets that the daemon passes. Use it on one event loop.

    Args:
        answers: handler of the questions; it holds the name table.
        connections: maximum TCP connections of one client.
        host: whether the host is a client, as soon as there are sockets for it.
        disconnect: disconnects a socket from its peer and its port, so that it can be used again.
        problems: descriptions of what is wrong with the process for as long as it runs.
    """

    def __init__(
        self,
        answers: QueryHandler,
        *,
        connections: int = CONNECTIONS,
        host: bool = False,
        disconnect: Disconnect = socket.socket.close,
        problems: tuple[str, ...] = (),
    ) -> None:
        self._problems = problems
        self._answers = answers
        self._disconnect = disconnect
        self._slots = Shares(ALL_CONNECTIONS, connections)
        self._listeners: dict[str, Listener] = {}
        """Listeners by container id."""
        self._missing: dict[str, Lack] = {HOST: Lack(HOST)} if host else {}
        """Missing sockets by container id."""
        self._host_listener: Listener | None = None
        self._host = HostQueries(answers)

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes; when this returns they are in force."""
        self._answers.table = self._answers.table.changed(*changes)
        self._host.set_networks(dict.fromkeys((*self._host.client.settings.networks, *_networks(changes))))
        for change in changes:
            if isinstance(change, SetClient | RemoveClient):
                self._reconcile(change.container_id)

    def replace(self, draft: Draft) -> None:
        """Replace all names and clients by these. Unchanged clients are served without interruption."""
        self._answers.table = draft.table
        self._host.set_networks(draft.networks)
        for container_id in {*self._answers.table.clients, *self._listeners, *self._missing} - {HOST}:
            self._reconcile(container_id)

    def provide(self, passed: Sequence[Passed], sockets: Sequence[socket.socket]) -> None:
        """Serve clients on their sockets. The resolver takes ownership; sockets that are not needed are closed."""
        rest = iter(sockets)
        for each in passed:
            self._assign(each, [*islice(rest, each.count)])

    def share(self, skip: int) -> tuple[tuple[Passed, ...], list[socket.socket], bool]:
        """Return duplicates of the sockets of some clients, for a successor, and whether there are further clients.

        Args:
            skip: number of clients whose sockets were shared before.
        """
        served = [(cid, each.client.settings.inode, each) for cid, each in sorted(self._listeners.items())]
        served += [(HOST, 0, self._host_listener)] if self._host_listener else []
        some = served[skip : skip + _SHARED]
        sockets = [each.dup() for _, _, listener in some for each in listener.sockets]
        return tuple(Passed(cid, inode) for cid, inode, _ in some), sockets, skip + len(some) < len(served)

    def problems(self) -> tuple[str, ...]:
        """Return descriptions of what is wrong with the resolver."""
        return self._problems

    def missing_sockets(self) -> tuple[Lack, ...]:
        """Return the clients without the sockets that they need; at most a thousand."""
        return tuple(islice(self._missing.values(), _REPORTED))

    def explain(self, container_id: str, name: str) -> Explanation:
        """Return the answer that a question of the client would get.

        Raises:
            Error: ``NOT_FOUND`` the client is unknown.
        """
        settings = self._answers.table.clients.get(container_id)
        if settings is None:
            raise not_found("sandbox", container_id, "names are answered in sandboxes only")
        found = explain(self._answers.table, settings, name)
        upstreams = self._answers.servers(settings) if found.source == "upstream" else found.upstreams
        inside = tuple(server for server in found.inside if server in upstreams)
        return msgspec.structs.replace(found, upstreams=upstreams, inside=inside)

    def counts(self) -> Counts:
        """Return the counters since the start."""
        return msgspec.structs.replace(self._answers.counts(), connections=self._slots.taken)

    async def drain(self) -> None:
        """Leave new questions to a successor on the same sockets, and answer the pending ones.

        A connection that was accepted this moment has some time for its first question.
        """
        listeners = self._all_listeners()
        for listener in listeners:
            listener.drain()
        for _ in range(round(FIRST_QUESTION / _PAUSE)):
            if not any(each.awaits_answers for each in listeners):
                break
            await asyncio.sleep(_PAUSE)
        await self._answers.finish()

    def close(self) -> None:
        """Close all sockets."""
        for container_id in tuple(self._listeners):
            self._close(container_id)
        if self._host_listener:
            self._host_listener.close()

    def _all_listeners(self) -> list[Listener]:
        return [*self._listeners.values(), *([self._host_listener] if self._host_listener else [])]

    def _reconcile(self, container_id: str) -> None:
        """Reconcile a client's listener with the name table: keep or close it."""
        desired = self._answers.table.clients.get(container_id)
        listener = self._listeners.get(container_id)
        if listener and desired and _same_namespace(listener.client.settings, desired):
            listener.client.settings = desired
        elif listener:
            self._close(container_id)
        self._update_missing(container_id, desired)

    def _update_missing(self, container_id: str, settings: SetClient | None) -> None:
        """Remember which sockets a client lacks."""
        listener = self._listeners.get(container_id)
        pool = listener.client.pool if listener else None
        versions = {server.version for server in servers_inside(settings)} if settings else set()
        asking = tuple(sorted(versions - (pool.versions if pool else frozenset())))
        if settings and (listener is None or asking):
            self._missing[container_id] = Lack(container_id, listener is None, asking)
        else:
            self._missing.pop(container_id, None)

    def _close(self, container_id: str) -> None:
        listener = self._listeners.pop(container_id)
        listener.close()
        if listener.client.pool:
            listener.client.pool.close()

    def _assign(self, passed: Passed, sockets: Sequence[socket.socket]) -> None:
        """Assign sockets to a client, and begin to serve it."""
        client = self._client_lacking(passed)
        rest = list(sockets)
        if client and passed.listening and self._missing[passed.container_id].listening:
            self._listen(client, rest.pop(0), rest.pop(0))
        if client and passed.asking and self._missing[passed.container_id].asking:
            client.pool = client.pool or Pool(self._disconnect)
            client.pool.add(rest[-passed.asking :])
            del rest[-passed.asking :]
        for each in rest:
            each.close()
        if passed.container_id == HOST:
            if self._host_listener:
                self._missing.pop(HOST, None)
        else:
            self._update_missing(passed.container_id, self._answers.table.clients.get(passed.container_id))

    def _listen(self, client: ClientState, udp: socket.socket, tcp: socket.socket) -> None:
        if client is self._host.client:
            self._host_listener = Listener(client, udp, tcp, self._host, self._slots)
        else:
            self._listeners[client.settings.container_id] = Listener(client, udp, tcp, self._answers, self._slots)

    def _client_lacking(self, passed: Passed) -> ClientState | None:
        """Return the client that lacks these sockets; ``None``: no client does."""
        if passed.container_id not in self._missing:
            return None
        if passed.container_id == HOST:
            return self._host.client
        settings = self._answers.table.clients.get(passed.container_id)
        if settings is None or settings.inode != passed.inode:
            return None
        listener = self._listeners.get(passed.container_id)
        return listener.client if listener else ClientState(settings)


def _networks(changes: Sequence[Change]) -> Iterator[str]:
    """Return the ids of the networks on which the changes set names."""
    return (change.network_id for change in changes if isinstance(change, SetNames))


def _same_namespace(one: SetClient, other: SetClient) -> bool:
    return (one.key, one.inode, one.listen) == (other.key, other.inode, other.listen)
