"""Clients of DHCP: one process for each endpoint, in the network namespace of its sandbox.

A client outlives the daemon: it renews its lease while the daemon is stopped, and leaves a report of what it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple, Protocol

from sandnet.model.interfaces.dhcp_lease import DhcpLease


class DhcpRequest(NamedTuple):
    """What a client is started for."""

    id: str
    """The endpoint's: 64 hex digits."""
    namespace: str
    """Path at which the namespace is pinned."""
    inode: int
    """Identity of that namespace."""
    interface: str
    """The interface inside. Its MAC is the client's identity for the server."""
    host_name: str = ""
    """What the client calls itself; empty: nothing."""
    wanted: IPv4Address | None = None
    """The address that it had before."""


class DhcpReport(NamedTuple):
    """The last event of a client."""

    at: float
    """Seconds since the epoch."""
    lease: DhcpLease | None
    """``None``: it has none any more, or what it was offered cannot be used."""
    problem: str = ""
    """Why the offer cannot be used."""


class DhcpClient(NamedTuple):
    """The state of a client."""

    running: bool
    report: DhcpReport | None
    """``None``: since its start the client has had no lease."""


class DhcpClients(Protocol):
    """The clients of this host, by the endpoint that each is for. There are never two for one endpoint."""

    def problem(self) -> str:
        """Return why there can be no client on this host, as text with what to install; empty: there can."""
        ...

    def start(self, request: DhcpRequest) -> None:
        """Start a client, without a report; one that is running is kept as it is.

        Raises:
            Error: ``UNAVAILABLE``: it cannot be started.
        """
        ...

    def stop(self, ids: Collection[str], *, release: bool) -> None:
        """End clients, and wait for their end; those that hang are killed. Absent ones are success.

        Args:
            ids: the endpoints.
            release: whether they return their addresses to the server first.

        Raises:
            Error: ``UNAVAILABLE``: one does not end.
        """
        ...

    def states(self, ids: Collection[str]) -> Mapping[str, DhcpClient]:
        """Return the state of each of these clients."""
        ...

    def endpoints(self) -> list[str]:
        """Return the endpoints that something of a client is there for."""
        ...
