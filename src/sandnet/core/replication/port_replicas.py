"""Published ports of endpoints that other hosts created, on each host that has a container of theirs."""

from __future__ import annotations

from msgspec.structs import replace

from sandnet.core.cluster.shared_values import SharedEndpoint
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.replication.pending_rebalances import PendingRebalances
from sandnet.core.runtime.context import Cluster
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.model import BoundPort, Phase
from sandnet.model.ports import ANY4, ANY6


class PortReplicas:
    """Publishes the same host ports as the host that created an endpoint, while this host has a container of it.

    What comes to a host reaches its own containers only, so a host without any publishes nothing.
    """

    def __init__(
        self, records: Records, cluster: Cluster, locks: Locks, sandboxes: Sandboxes, rebalances: PendingRebalances
    ) -> None:
        self._records, self._locks, self._sandboxes, self._rebalances = records, locks, sandboxes, rebalances
        _, self._view, self._membership, self._shared = cluster

    async def sync(self, endpoint_id: str) -> None:
        """Bring the published ports of an endpoint into line.

        Raises:
            Error: ``CONFLICT``: another endpoint or program has one of them on this host.
        """
        shared, endpoint = self._view.endpoint(endpoint_id), self._records.endpoint(endpoint_id)
        if shared is None or endpoint is None or endpoint.phase is not Phase.READY:
            return
        is_own = shared.host == self._membership.name
        if is_own and endpoint.ports_withdrawn:
            await self._withdraw(endpoint_id)
            return
        ports = shared.ports if is_own else self._shared_ports(shared)
        if endpoint.ports != ports and not (is_own and endpoint.ports):
            self._rebalances.add(endpoint_id)
            await self._sandboxes.replace_ports(endpoint_id, ports)
        await self._rebalances.apply(endpoint_id)

    async def _withdraw(self, endpoint_id: str) -> None:
        """Let the other hosts know that the ports were withdrawn: the store may have been away then."""
        async with self._locks.hold(f"endpoint/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            if endpoint and endpoint.phase is Phase.READY and endpoint.ports_withdrawn:
                await self._shared.withdraw_ports(endpoint_id)
                await self._records.commit(put=[replace(endpoint, ports_withdrawn=False)], shared=False)

    def _shared_ports(self, shared: SharedEndpoint) -> tuple[BoundPort, ...]:
        """Return the ports that this host publishes, too: not those at one address of the other host."""
        if not self._records.attachments_of_endpoint(shared.endpoint.id):
            return ()
        return tuple(port for port in shared.ports if port.host_ip in (ANY4, ANY6))
