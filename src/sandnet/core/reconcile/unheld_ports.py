"""Published host ports that the daemon does not hold, because another program had them when it started.

The daemon holds the ports of its endpoints by sockets, and binds them again when it starts. A port that another program
took in the meantime is tried again each second until that program ends. Until then health and the comparison name the
endpoint.
"""

from __future__ import annotations

import logging

from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.drivers.port_allocator import PortAllocator
from sandnet.drivers.registry import DriverRegistry
from sandnet.errors import Error
from sandnet.kernel.workers import Workers
from sandnet.model import Endpoint, Phase

_log = logging.getLogger(__name__)

TIMEOUT = 0.5
"""Seconds to wait for an endpoint that an operation is changing."""
REASON = "the port still leads to the sandbox, and the program that has it gets nothing from other machines"


class PortHolding:
    """Holds the host ports of existing endpoints, and remembers where that failed."""

    def __init__(
        self,
        records: Records,
        drivers: DriverRegistry,
        port_allocator: PortAllocator,
        locks: Locks,
        workers: Workers,
    ) -> None:
        self._records = records
        self._drivers = drivers
        self._port_allocator = port_allocator
        self._locks = locks
        self._workers = workers
        self._failures: dict[str, str] = {}
        """The reason why an endpoint's ports are not all held, by endpoint id."""

    @property
    def problems(self) -> list[str]:
        """One text for each endpoint."""
        return [f"endpoint {self._name(each)}: {self._failures[each.id]}" for each in self._unheld()]

    async def hold(self, endpoint: Endpoint) -> None:
        """Hold the ports that a record publishes; ports that are held already stay held.

        Raises:
            Error: the network's driver does not work here.
        """
        network = self._records.network(endpoint.network_id)
        if network is None:
            return
        self._drivers.working(network.driver)
        try:
            await self._workers.run(self._port_allocator.rebind, endpoint.ports)
        except Error as failure:
            if self._failures.get(endpoint.id) != str(failure):
                _log.warning("endpoint %s: %s", self._name(endpoint), failure)
            self._failures[endpoint.id] = str(failure)
        else:
            self._failures.pop(endpoint.id, None)

    async def retry(self) -> list[Drift]:
        """Try again where it failed, and return each fault with the result. Repairs are published as events.

        Raises:
            Error: the store is away.
        """
        drifts = [each for endpoint in self._unheld() if (each := await self._retry(endpoint))]
        await self._records.publish_repairs([drift.repair for drift in drifts if drift.done == REPAIRED])
        return drifts

    def faults(self) -> list[Drift]:
        """Return the faults, without trying again."""
        return [self._drift(endpoint) for endpoint in self._unheld()]

    async def _retry(self, endpoint: Endpoint) -> Drift | None:
        drift = self._drift(endpoint)
        try:
            async with self._locks.hold(f"endpoint/{endpoint.id}", max_wait=TIMEOUT):
                current = self._records.endpoint(endpoint.id)
                if current is None or current.phase is not Phase.READY:
                    return None
                await self.hold(current)
        except Error as failure:
            return None if failure.code == "busy" else drift._replace(done=f"not repaired: {failure}")
        remaining = self._failures.get(endpoint.id)
        if remaining is None:
            _log.warning("endpoint %s: its host ports are held now", self._name(endpoint))
        return drift._replace(done=f"not repaired: {remaining}" if remaining else REPAIRED)

    def _unheld(self) -> list[Endpoint]:
        """Return the endpoints whose ports are not all held; forget those that are deleted."""
        found = {key: self._records.endpoint(key) for key in self._failures}
        self._failures = {key: text for key, text in self._failures.items() if found[key]}
        return [endpoint for endpoint in found.values() if endpoint]

    def _drift(self, endpoint: Endpoint) -> Drift:
        return Drift("port", self._name(endpoint), self._failures[endpoint.id], REASON, subject=endpoint)

    def _name(self, endpoint: Endpoint) -> str:
        network = self._records.network(endpoint.network_id)
        return f"{endpoint.name}.{network.name if network else '?'}"
