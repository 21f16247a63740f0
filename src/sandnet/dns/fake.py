"""The name service in memory, for tests of those who use it."""

from __future__ import annotations

from collections.abc import Sequence

from sandnet.dns.base import Change, Explanation
from sandnet.dns.lookup import Forward, explain, resolve
from sandnet.dns.name_table import NameTable
from sandnet.errors import Error, Kind, not_found


class FakeNames:
    """A :class:`sandnet.dns.base.NameService` without a process or a socket.

    Attributes:
        table: the names now in force.
        prepared: containers and inodes whose sockets were to be opened beforehand.
        trouble: what :meth:`problem` says; while it is not empty the resolver counts as away.
    """

    def __init__(self) -> None:
        self.table = NameTable()
        self.prepared: list[tuple[str, int]] = []
        self.trouble = ""

    async def apply(self, *changes: Change) -> None:
        """Make changes."""
        self.table = self.table.changed(*changes)

    async def replace(self, changes: Sequence[Change]) -> None:
        """Make exactly these the names and askers."""
        self.table = self.table.replaced(changes)

    def prepare(self, container_id: str, key: str, inode: int) -> None:
        """Remember it: there are no sockets here."""
        self.prepared.append((container_id, inode))

    async def explain(self, container_id: str, name: str) -> Explanation:
        """What the container would be answered.

        Raises:
            Error: ``NOT_FOUND`` the asker is not known; ``UNAVAILABLE`` there is trouble.
        """
        if self.trouble:
            raise Error(Kind.UNAVAILABLE, f"the resolver is away: {self.trouble}", code="resolver_away")
        asker = self.table.askers.get(container_id)
        if asker is None:
            raise not_found("sandbox", container_id, "names are answered in sandboxes only")
        return explain(self.table, asker, name)

    def problem(self) -> str:
        """The trouble it was given."""
        return self.trouble

    def answer(self, container_id: str, query: bytes, *, turn: int = 0) -> bytes | None:
        """What the container gets for a DNS message; ``None``: it would be asked upstream, or nothing is sent.

        Raises:
            KeyError: the container has no name server.
        """
        found = resolve(self.table, self.table.askers[container_id], query, tcp=False, turn=turn)
        return None if isinstance(found, Forward) else found or None
