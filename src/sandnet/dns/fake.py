"""A name service in memory: the test double for the modules that use the resolver."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from sandnet.dns.base import Change, Explanation
from sandnet.dns.lookup import Forward, explain, resolve
from sandnet.dns.name_table import NameTable
from sandnet.errors import Error, Kind, not_found


class FakeNames:
    """A :class:`sandnet.dns.base.NameService` without a process or a socket.

    Attributes:
        table: the names now in force.
        adopted: containers and inodes of all calls of :meth:`adopt_sockets`.
        trouble: the result of :meth:`problem`; while it is not empty the resolver counts as unavailable.
    """

    def __init__(self) -> None:
        self.table = NameTable()
        self.adopted: list[tuple[str, int]] = []
        self.trouble = ""

    def apply(self, *changes: Change) -> asyncio.Future[None]:
        """Apply changes."""
        self.table = self.table.changed(*changes)
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        applied.set_result(None)
        return applied

    async def replace(self, changes: Sequence[Change]) -> None:
        """Replace all names and clients by these."""
        self.table = self.table.replaced(changes)

    def adopt_sockets(self, container_id: str, inode: int, listening: tuple[socket.socket, ...]) -> None:
        """Record the call, and close the sockets: this double does not read them."""
        self.adopted.append((container_id, inode))
        for each in listening:
            each.close()

    async def explain(self, container_id: str, name: str) -> Explanation:
        """Return the answer that a question of the container would get.

        Raises:
            Error: ``NOT_FOUND`` the client is unknown; ``UNAVAILABLE`` :attr:`trouble` is not empty.
        """
        if self.trouble:
            raise Error(Kind.UNAVAILABLE, f"the resolver is away: {self.trouble}", code="resolver_away")
        client = self.table.clients.get(container_id)
        if client is None:
            raise not_found("sandbox", container_id, "names are answered in sandboxes only")
        return explain(self.table, client, name)

    def problem(self) -> str:
        """Return :attr:`trouble`."""
        return self.trouble

    def answer(self, container_id: str, query: bytes, *, turn: int = 0) -> bytes | None:
        """Return the reply to a DNS message of the container; ``None``: it would be forwarded, or gets no reply.

        Raises:
            KeyError: the container has no name server.
        """
        found = resolve(self.table, self.table.clients[container_id], query, tcp=False, turn=turn)
        return None if isinstance(found, Forward) else found or None
