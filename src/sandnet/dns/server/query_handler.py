"""The handler of questions: it answers at once from the name table, or forwards the question upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from sandnet.dns import message
from sandnet.dns.base import SetClient
from sandnet.dns.control_protocol import Counts
from sandnet.dns.lookup import Forward, resolve
from sandnet.dns.message import Question
from sandnet.dns.name_table import NameTable
from sandnet.dns.server.budget import Budget
from sandnet.dns.server.forwarder import ForwarderUsage, Options, Upstream
from sandnet.dns.server.host_nameservers import HostNameservers
from sandnet.dns.server.sandbox_sockets import Pool, ServerInSandbox, servers_inside
from sandnet.dns.server.upstream_sockets import LARGEST, Server
from sandnet.model.address import Address

Peer = tuple[str, int]
"""Address and port of the program that sent the question, inside its sandbox."""
Send = Callable[[Peer, bytes], None]
"""Function that sends an answer to the program that sent the question."""


class ClientState:
    """The state of a client: a sandbox, or the host."""

    def __init__(self, settings: SetClient) -> None:
        self.settings = settings
        """Its record as last received; the name table is newer by at most one step of the event loop."""
        self.connections = 0
        """Number of its TCP connections."""
        self.pool: Pool | None = None
        """Sockets in its sandbox for questions to servers; ``None``: no server is asked from the sandbox."""
        self.budget = Budget()
        """CPU budget for its work."""
        self.usage = ForwarderUsage(self.budget.run, self.budget.charge)
        """Its pending questions upstream."""


class Answering(Protocol):
    """The interface of handlers of the questions that listeners receive."""

    def answer(self, client: ClientState, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        """Send the answer, now or later; return false if there is none because the message is no question."""
        ...

    def refused(self) -> None:
        """Count a connection that was closed because of a limit."""
        ...

    def unsent(self) -> None:
        """Count an answer that could not be sent."""
        ...


class QueryHandler:
    """The handler of the questions of all clients, with counters.

    Args:
        upstream: forwarder to other servers.
        host_servers: servers for a client without servers of its own.
        own: addresses at which this process itself answers; nothing is ever forwarded to them.
    """

    def __init__(
        self,
        upstream: Upstream,
        host_servers: HostNameservers,
        *,
        own: Collection[Address] = (),
    ) -> None:
        self.table = NameTable()
        self._upstream = upstream
        self._host_servers = host_servers
        self._own = frozenset(own)
        self._idle = asyncio.Event()
        self._idle.set()
        self._started = time.monotonic()
        self.queries = self.questions = self.failed = self.limited = self.dropped = 0

    def answer(self, client: ClientState, query: bytes, send: Send, peer: Peer, *, tcp: bool) -> bool:
        """Send the answer, now or later; return false if there is none because the message is no question."""
        self.queries += 1
        answer = resolve(self.table, client.settings, query, tcp=tcp, turn=self.queries)
        if isinstance(answer, Forward):
            self._ask(client, query, answer.question, partial(send, peer), tcp=tcp)
        elif answer:
            send(peer, answer)
        else:
            self.dropped += 1
            return False
        return True

    def refused(self) -> None:
        """Count a connection that was closed because of a limit."""
        self.limited += 1

    def unsent(self) -> None:
        """Count an answer that could not be sent."""
        self.dropped += 1

    def servers(self, settings: SetClient) -> tuple[Address, ...]:
        """Return the upstream servers for a client, in order."""
        own_servers = tuple(server for server in settings.upstreams if server not in self._own)
        return own_servers or tuple(server for server in self._host_servers.current() if server not in self._own)

    def routes(self, client: ClientState) -> tuple[Server, ...]:
        """Return the upstream servers for a client, in order, with the namespace from which each is asked.

        A server in one of the sandbox's own networks is asked from inside the sandbox. Another server is asked from the
        host, and finally from inside: the sandbox may have a route to it that the host does not have. For a client on
        internal networks only, no server is asked from the host.
        """
        settings = client.settings
        from_host = [server for server in self.servers(settings) if settings.external and server not in settings.inside]
        if client.pool is None:
            return tuple(from_host)
        from_sandbox = [
            ServerInSandbox(server, client.pool) for server in servers_inside(settings) if server not in self._own
        ]
        preferred = [route for route in from_sandbox if route.address in settings.inside]
        return (*preferred, *from_host, *(route for route in from_sandbox if route.address not in settings.inside))

    async def finish(self) -> None:
        """Wait until all pending questions have an answer."""
        await self._idle.wait()

    def counts(self) -> Counts:
        """Return the counters since the start; sockets and connections are counted elsewhere."""
        return Counts(
            queries=self.queries,
            local=self.queries - self.questions - self.limited - self.dropped,
            upstream=self.questions,
            servfail=self.failed,
            limited=self.limited,
            dropped=self.dropped,
            askers=len(self.table.clients),
            outstanding=self._upstream.outstanding,
            seconds=time.monotonic() - self._started,
        )

    def _ask(
        self, client: ClientState, query: bytes, question: Question, send: Callable[[bytes], None], *, tcp: bool
    ) -> None:
        def done(answer: bytes | None) -> None:
            self.failed += answer is None
            if not self._upstream.outstanding:
                self._idle.set()
            send(answer or message.error(query, question, message.SERVFAIL))

        sent = self._upstream.send(
            query,
            question,
            self.routes(client),
            limit=LARGEST if tcp else message.udp_limit(question),
            usage=client.usage,
            done=done,
            options=self._options(client.settings),
        )
        if sent:
            self.questions += 1
            self._idle.clear()
        else:
            self.limited += 1
            send(message.error(query, question, message.SERVFAIL))

    def _options(self, settings: SetClient) -> Options:
        """Return the options for the client's servers: the host's options apply only to the host's servers."""
        return Options() if settings.upstreams else self._host_servers.options()
