"""Networks that other hosts create, change and delete."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from sandnet.core.cluster.network_clashes import refuse_clash
from sandnet.core.cluster.shared_values import shared_network
from sandnet.core.cluster.view import ClusterView
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.updates.network_update import NetworkUpdates
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.drivers.base import Driver
from sandnet.errors import Error, Kind
from sandnet.model import Network, Phase


class NetworkReplicas:
    """Makes each network of all hosts on this host."""

    def __init__(
        self,
        records: Records,
        view: ClusterView,
        drivers: Mapping[str, Driver],
        locks: Locks,
        removal: Deletion,
        updates: NetworkUpdates,
    ) -> None:
        self._records, self._view = records, view
        self._drivers, self._locks, self._removal, self._updates = drivers, locks, removal, updates

    async def sync(self, network_id: str) -> bool:
        """Bring a network into line; return whether it has just been made, so that its endpoints can follow.

        Raises:
            Error: it cannot be made on this host.
        """
        async with self._locks.hold(f"network/{network_id}"):
            shared, local = self._view.network(network_id), self._records.network(network_id)
            if shared and local and local.phase is not Phase.READY:  # left half-way, or another host uses it
                await self._drivers[local.driver].delete_network(local)
                await self._records.commit(delete=[local], shared=False)
                local = None
            if shared and local is None:
                await self._create(shared.network)
                return True
            changed = shared and local and local.phase is Phase.READY and shared_network(local) != shared
            if changed and shared and local:
                await self._change(local, shared.network)
            # one that was left half-way is removed, too: nothing else would finish it
            deleted = shared is None and local is not None
        if changed:
            await self._updates.apply(network_id)
        if deleted:
            await self._removal.network_within(network_id, force=True)
        return False

    async def _create(self, network: Network) -> None:
        self._refuse_taken(network)
        driver = self._drivers[network.driver]
        if reason := driver.unavailable():
            raise Error(Kind.UNAVAILABLE, f"network {network.name} is not on this host: {reason}")
        copy = replace(network, phase=Phase.CREATING, sequence=self._records.next_sequence())
        await self._records.commit(put=[copy], shared=False)
        try:
            made = replace(await driver.create_network(copy), phase=Phase.READY)
            await self._records.commit(put=[made], shared=False)
        except BaseException:
            await driver.delete_network(copy)
            await self._records.commit(delete=[copy], shared=False)
            raise

    def _refuse_taken(self, network: Network) -> None:
        for holder in self._records.networks_named(network.name):
            message = f"network {network.name} of other hosts is not on this one: network {holder.id[:12]} has its name"
            raise Error(Kind.NAME_TAKEN, message, "delete one of the two")
        refuse_clash(network, self._records.networks())

    async def _change(self, local: Network, shared: Network) -> None:
        own = replace(
            shared, sequence=local.sequence, link=local.link, link_adopted=local.link_adopted, added=local.added
        )
        await self._records.commit(put=[own], shared=False)
        await self._drivers[own.driver].create_network(own)
