"""The hosts that share networks: list them, and remove one that does not come back."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.shared_records import SharedRecords
from sandnet.core.cluster.shared_values import ALIVE, FENCES, HOSTS, HostRecord
from sandnet.core.cluster.view import ClusterView
from sandnet.errors import Error, Kind, not_found
from sandnet.stores.base import Delete
from sandnet.stores.shared import Absent, Condition, ConditionFailed, Present


class NodeStatus(NamedTuple):
    """A host, and what it has."""

    host: HostRecord
    this: bool
    alive: bool
    attachments: int
    endpoints: int


class StoreFigures(NamedTuple):
    """This host's membership in figures."""

    silence: float
    """Seconds since the shared store has answered last."""
    lease: float
    """Seconds that this host's lease lasts at least; 0: it has none."""
    alive: int
    """Hosts whose lease lasts."""
    away: int


class Nodes:
    """The hosts that the shared store knows."""

    def __init__(self, view: ClusterView, membership: HostMembership, shared: SharedRecords) -> None:
        self._view, self._membership, self._shared = view, membership, shared

    def list(self) -> list[NodeStatus]:
        """Return all hosts, by name."""
        created = self._created()
        return [self._status(host, created) for host in self._view.hosts()]

    def figures(self) -> StoreFigures:
        """Return the figures of this host's membership."""
        hosts = [self._view.alive(host.name) is not None for host in self._view.hosts()]
        return StoreFigures(self._membership.silence, self._membership.lease_seconds, sum(hosts), hosts.count(False))

    def find(self, name: str) -> NodeStatus:
        """Return the host with that name.

        Raises:
            Error: ``NOT_FOUND``.
        """
        host = self._view.host(name)
        if host is None:
            raise not_found("node", name, "see the nodes there are with: sandnet node ls")
        return self._status(host, self._created())

    def _created(self) -> Counter[str]:
        """Return how many endpoints each host has created."""
        found = map(self._view.endpoint, self._view.endpoint_ids())
        return Counter(shared.host for shared in found if shared)

    def _status(self, host: HostRecord, created: Counter[str]) -> NodeStatus:
        return NodeStatus(
            host,
            host.name == self._membership.name,
            self._view.alive(host.name) is not None,
            len(self._view.attachments_of_host(host.name)),
            created[host.name],
        )

    async def remove(self, name: str) -> None:
        """Remove a host that is away, with its attachments and the endpoints that ended with it.

        The same call finishes what a failed one has left. A host that comes back joins again.

        Raises:
            Error: ``NOT_FOUND``; ``IN_USE``: it is alive; ``UNAVAILABLE``.
        """
        node = self.find(name)
        if node.alive:
            message = f"node {name} is alive"
            raise Error(Kind.IN_USE, message, "stop its daemon first; 15 s later it is away", "node_alive")
        await self._shared.attachments.release(self._view.attachments_of_host(name))
        for endpoint_id in self._view.endpoint_ids():
            shared = self._view.endpoint(endpoint_id)
            if shared and shared.host == name and not self._view.counts_endpoint(shared):
                await self._shared.delete_endpoint(shared.endpoint)
        await self._forget(name)

    async def _forget(self, name: str) -> None:
        conditions: list[Condition] = [Absent(f"{ALIVE}{name}"), Present(f"{HOSTS}{name}")]
        try:
            await self._membership.transact([Delete(f"{HOSTS}{name}"), Delete(f"{FENCES}{name}")], conditions)
        except ConditionFailed as refused:
            if refused.at(f"{HOSTS}{name}"):
                raise Error(Kind.IN_USE, f"node {name} has just come back", code="node_alive") from refused


def no_shared_store() -> Error:
    """Return the error of a daemon that has no other hosts."""
    hint = "start the daemon with --store etcd://HOST:2379"
    return Error(Kind.NOT_FOUND, "this daemon shares no store with other hosts", hint, "no_shared_store")
