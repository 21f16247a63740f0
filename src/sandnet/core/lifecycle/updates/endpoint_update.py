"""Changes of endpoints while containers use them.

The new record is the intent: a daemon that is killed during the change finds it at its next start, and restores the
links from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations, roll_back
from sandnet.core.state.records import Records
from sandnet.core.state.shared_writer import repeated
from sandnet.drivers.base import Driver
from sandnet.drivers.traffic_shaping import check_shaping
from sandnet.errors import not_found
from sandnet.model import Endpoint, Phase
from sandnet.model.interfaces.bandwidth import Bandwidth


class EndpointUpdates:
    """Changes of endpoints."""

    def __init__(
        self,
        records: Records,
        operations: Operations,
        locks: Locks,
        drivers: Mapping[str, Driver],
        sandboxes: Sandboxes,
    ) -> None:
        self._records = records
        self._operations = operations
        self._locks = locks
        self._drivers = drivers
        self._sandboxes = sandboxes

    async def limit(self, endpoint: Endpoint, bandwidth: Bandwidth | None) -> None:
        """Change the limits of an endpoint's traffic.

        Raises:
            Error: ``NOT_FOUND``; ``INVALID``: the network's driver limits no traffic; or an error of the kernel. Then
                nothing is changed.
        """
        await self._operations.run(self._limit(endpoint.id, bandwidth))

    async def apply(self, endpoint_id: str) -> None:
        """Apply the limits of an endpoint to its containers on this host: another host has changed them."""
        async with self._locks.hold(*self._locks_of(endpoint_id)):
            endpoint = self._records.endpoint(endpoint_id)
            if endpoint and endpoint.phase is Phase.READY:
                await self._ensure(endpoint)

    async def _limit(self, endpoint_id: str, bandwidth: Bandwidth | None) -> None:
        while not await repeated(lambda: self._try(endpoint_id, bandwidth), self._records.catch_up):
            pass  # new containers joined the endpoint while this waited for the locks

    async def _try(self, endpoint_id: str, bandwidth: Bandwidth | None) -> bool:
        names = self._locks_of(endpoint_id)
        async with self._locks.hold(*names):
            before = self._records.endpoint(endpoint_id)
            network = self._records.network(before.network_id) if before else None
            if before is None or network is None or before.phase is not Phase.READY:
                raise not_found("endpoint", endpoint_id)
            if not self._locks_of(endpoint_id) <= names:
                return False
            after = replace(before, bandwidth=bandwidth)
            if after != before:
                check_shaping(self._drivers[network.driver], network, bandwidth)
                await self._records.commit(put=[after])
                try:
                    await self._ensure(after)
                except BaseException:
                    await roll_back(f"the change of endpoint {after.name}", self._undo(before))
                    raise
            return True

    def _locks_of(self, endpoint_id: str) -> set[str]:
        attached = self._records.attachments_of_endpoint(endpoint_id)
        return {f"endpoint/{endpoint_id}", *(f"sandbox/{each.container_id}" for each in attached)}

    async def _undo(self, before: Endpoint) -> None:
        await self._records.commit(put=[before])
        await self._ensure(before)

    async def _ensure(self, endpoint: Endpoint) -> None:
        found = self._records.attachments_of_endpoint(endpoint.id)
        ready = ((self._records.sandbox(each.container_id), each) for each in found if each.phase is Phase.READY)
        await asyncio.gather(*(self._sandboxes.ensure(sandbox, each) for sandbox, each in ready if sandbox))
