"""The interface of the name service: the changes that the daemon sends to the resolver, and its queries.

The resolver is a separate process: it keeps answering while the daemon is down. The daemon sends changes and waits
until they are in force. So a name resolves in every sandbox when the request that created it returns. After a
reconnection the daemon sends everything again; the resolver keeps the records that are unchanged.

A client (``asker`` in records) is a sandbox, or the host, that sends DNS questions to the resolver.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

import msgspec

from sandnet.model.address import Address


class SetNames(msgspec.Struct, frozen=True, kw_only=True, tag="names"):
    """The names of one owner on one network. They replace the names that the owner had there.

    If several owners have one name, it resolves to the addresses of all of them.
    """

    network_id: str
    network: str
    """The network's name: every name ``n`` resolves as ``n.network`` too."""
    owner: str
    """Endpoint id, or ``container id/endpoint id`` for the names that a container adds to its endpoint."""
    names: tuple[str, ...]
    """Lower case, without a trailing dot; reverse lookups return the first one."""
    addresses: tuple[Address, ...]
    additional_addresses: tuple[Address, ...] = ()
    """Further addresses that have the owner's name in reverse lookups. The names do not resolve to them."""


class RemoveNames(msgspec.Struct, frozen=True, kw_only=True, tag="no_names"):
    """Removes the names of an owner on a network. An unknown owner is no error."""

    network_id: str
    owner: str


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A name that resolves for one client only."""

    name: str
    addresses: tuple[Address, ...]


class SetClient(msgspec.Struct, frozen=True, kw_only=True, tag="asker"):
    """A client of the resolver: a sandbox, the networks it sees, its upstream servers. Replaces its former record."""

    container_id: str
    key: str
    """Path of its network namespace."""
    inode: int
    """Inode of the namespace, its identity: another namespace at that path is not served."""
    beside_another: bool = False
    """Whether a container engine has a resolver of its own there, so that this one listens at another address."""
    networks: tuple[str, ...]
    """Ids of the networks it is attached to, in the order of attachment; names are looked up in this order."""
    aliases: tuple[Alias, ...] = ()
    upstreams: tuple[Address, ...] = ()
    """DNS servers of its join request; empty: the host's servers are used."""
    inside: tuple[Address, ...] = ()
    """The upstream servers with an address in one of its own networks: asked from inside the sandbox only, never
    from the host."""
    listen: Address | None = None
    """Address in the host's namespace at which it is answered, of a virtual machine; ``None``: in its namespace."""
    sources: tuple[Address, ...] = ()
    """The only addresses whose questions are its own, where it is answered in the host's namespace; empty: any."""
    external: bool = True
    """False: it is on internal networks only, and its questions are never forwarded from the host."""


class RemoveClient(msgspec.Struct, frozen=True, kw_only=True, tag="no_asker"):
    """Removes a client whose sandbox was removed, and closes its sockets. An unknown client is no error."""

    container_id: str


Change = SetNames | RemoveNames | SetClient | RemoveClient


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that a question would get, and why."""

    name: str
    asker: str
    answers: tuple[Address, ...]
    source: str
    """``alias``, ``network``, ``reverse``, ``localhost``, ``upstream`` or ``none``."""
    network: str = ""
    """Id of the network whose records answer."""
    owners: tuple[str, ...] = ()
    """Owners of the name there: endpoint ids, or container and endpoint ids."""
    upstreams: tuple[Address, ...] = ()
    """Servers that would be asked, in order."""
    inside: tuple[Address, ...] = ()
    """The upstream servers that would be asked from inside the sandbox."""
    reason: str = ""
    """A sentence for people."""


class NameService(Protocol):
    """The interface of the resolver that the core uses."""

    def apply(self, *changes: Change) -> asyncio.Future[None]:
        """Send changes now; they are in force when the returned future is done. Other work can be done until then.

        While the resolver is unavailable, the future waits for it at most 1 s. The changes are kept and sent with all
        others after the next connection, and :meth:`problem` reports that.
        """
        ...

    async def replace(self, changes: Sequence[Change]) -> None:
        """Replace all names and clients by these. A record that is kept resolves all the time."""
        ...

    def adopt_sockets(self, container_id: str, inode: int, listening: tuple[socket.socket, ...]) -> None:
        """Take over the sockets of a sandbox that becomes a client soon; the caller's objects are closed.

        They are sent with the first change that contains the client. A client without them gets its sockets later.

        Args:
            container_id: the client.
            inode: inode of its namespace.
            listening: the UDP and the TCP socket that receive its questions.
        """
        ...

    async def explain(self, container_id: str, name: str) -> Explanation:
        """Return the answer that an A or AAAA question (for an address: a PTR question) of the container would get.

        Raises:
            Error: ``NOT_FOUND`` the client is unknown; ``UNAVAILABLE`` the resolver is unavailable.
        """
        ...

    def problem(self) -> str:
        """Return a description of what is wrong with the resolver; empty: nothing."""
        ...
