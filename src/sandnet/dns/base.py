"""What the daemon tells the resolver, and what it may ask of it.

The resolver is a process of its own: it goes on answering while the daemon is away. The daemon sends
changes and waits until they are in force, so that a name resolves everywhere when the request that made
it returns. After a reconnection it sends everything anew; the resolver keeps what is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from sandnet.model.address import Address

SERVER_ADDRESS = "127.0.0.11"
"""Where the resolver listens inside a sandbox, as Docker's does; port 53, UDP and TCP."""


class SetNames(msgspec.Struct, frozen=True, kw_only=True, tag="names"):
    """The names of one owner on one network; replaces what the owner had there.

    Several owners of one name give all their addresses.
    """

    network_id: str
    network: str
    """The network's name: every name ``n`` answers as ``n.network`` too."""
    owner: str
    """Endpoint id, or ``container id/endpoint id`` for the names a container brings with it."""
    names: tuple[str, ...]
    """Lower case, without a trailing dot; the first is the one that reverse lookups give."""
    addresses: tuple[Address, ...]


class RemoveNames(msgspec.Struct, frozen=True, kw_only=True, tag="no_names"):
    """The owner has no names on that network any more; unknown: no error."""

    network_id: str
    owner: str


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name that one asker alone knows."""

    name: str
    addresses: tuple[Address, ...]


class SetClient(msgspec.Struct, frozen=True, kw_only=True, tag="asker"):
    """A sandbox: who asks, what it may see, and who answers the rest. Replaces what was known of it."""

    container_id: str
    key: str
    """Path of its namespace."""
    inode: int
    """Identity of the namespace: another one at that path is not served."""
    networks: tuple[str, ...]
    """Ids of the networks it is on, the first attached first: where names are looked for."""
    aliases: tuple[Alias, ...] = ()
    upstreams: tuple[Address, ...] = ()
    """Servers of its join request; empty: the host's."""
    inside: tuple[Address, ...] = ()
    """Those of them that are asked from inside the sandbox and never from the host: its own networks hold them."""
    external: bool = True
    """False: it is on internal networks only, and nothing is asked for it from the host."""


class RemoveClient(msgspec.Struct, frozen=True, kw_only=True, tag="no_asker"):
    """The sandbox is gone: close its sockets. Unknown: no error."""

    container_id: str


Change = SetNames | RemoveNames | SetClient | RemoveClient


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What would be answered to a question, and why."""

    name: str
    asker: str
    answers: tuple[Address, ...]
    source: str
    """``alias``, ``network``, ``reverse``, ``localhost``, ``upstream`` or ``none``."""
    network: str = ""
    """Id of the network whose records answer."""
    owners: tuple[str, ...] = ()
    """Endpoint ids, or container and endpoint ids, that bear the name there."""
    upstreams: tuple[Address, ...] = ()
    """Servers that would be asked, in order."""
    inside: tuple[Address, ...] = ()
    """Those of them that would be asked from inside the sandbox."""
    reason: str = ""
    """In words."""


class NameService(Protocol):
    """The resolver as the core sees it."""

    async def apply(self, *changes: Change) -> None:
        """Make changes; they are in force when this returns.

        While the resolver is away this waits for it at most a second; the changes are kept and sent with all
        others once it is back, and :meth:`problem` says so.
        """
        ...

    async def replace(self, changes: Sequence[Change]) -> None:
        """Make exactly these the names and askers there are, with no moment in which a kept one is missing."""
        ...

    def prepare(self, container_id: str, key: str, inode: int) -> None:
        """Open the sockets of a sandbox that is about to ask; call it on a worker thread.

        They go with the first change that names the asker, so that nobody waits for them. An asker that was not
        prepared gets its sockets all the same.
        """
        ...

    async def explain(self, container_id: str, name: str) -> Explanation:
        """What an A or AAAA question (for an address: a PTR question) of that container would be answered.

        Raises:
            Error: ``NOT_FOUND`` the asker is not known; ``UNAVAILABLE`` the resolver is away.
        """
        ...

    def problem(self) -> str:
        """What is wrong with the resolver, in words; empty when nothing is."""
        ...
