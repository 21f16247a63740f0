"""Backends: several containers behind one endpoint, load balancing of new flows, and failover of its address."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from sandnet.core.runtime.context import Context
from sandnet.drivers.base import LoadBalancing
from sandnet.errors import Error, Kind, not_found
from sandnet.firewall.base import Step
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Veth
from sandnet.model import Attachment, Endpoint, Network, Phase
from sandnet.model.link_alias import attachment_alias

_log = logging.getLogger(__name__)


class Backends:
    """The attachments of one endpoint, together. :meth:`rebalance` and :meth:`fail_over` need its lock held."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records

    def ready(self, endpoint: Endpoint) -> list[Attachment]:
        """Return the attachments that are ready, the first attached first."""
        found = self._records.attachments_of_endpoint(endpoint.id)
        return [attachment for attachment in found if attachment.phase is Phase.READY]

    async def rebalance(self, network: Network, endpoint: Endpoint, *also: Attachment) -> None:
        """Make the driver distribute new flows over the ready backends and ``also``."""
        backends = [*self.ready(endpoint), *also]
        driver = self._context.drivers[network.driver]
        if isinstance(driver, LoadBalancing):
            await driver.balance(network, endpoint, backends)

    async def fail_over(self, network: Network, endpoint: Endpoint, leaving: Attachment) -> None:
        """Move the address and new flows from ``leaving`` to other backends, before it is removed."""
        if leaving.holder:
            await self._promote_one(network, endpoint)
        await self.rebalance(network, endpoint)

    async def change(
        self, endpoint: Endpoint, container_id: str, *, drained: bool | None = None, weight: int | None = None
    ) -> None:
        """Drain a backend (no new flows, existing ones continue), add it again, or change its weight.

        Raises:
            Error: ``NOT_FOUND`` when the container is not attached.
        """
        await self._context.operations.run(self._change(endpoint.id, container_id, drained, weight))

    async def set_health(self, endpoint_id: str, container_id: str, *, healthy: bool) -> None:
        """Remove a backend from the rotation or add it again, by its probe results; do nothing when it is detached."""
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            attachment = self._records.attachment(container_id, endpoint_id)
            if endpoint is None or attachment is None or attachment.phase is not Phase.READY:
                return
            if attachment.healthy is not healthy:
                await self._records.commit(put=[replace(attachment, healthy=healthy)])
            # even without a change of the record: the driver may have failed last time
            await self.rebalance(self._network(endpoint), endpoint)

    async def _change(self, endpoint_id: str, container_id: str, drained: bool | None, weight: int | None) -> None:
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            attachment = self._records.attachment(container_id, endpoint_id)
            if endpoint is None or attachment is None or attachment.phase is not Phase.READY:
                message = f"container {container_id} is not attached to {endpoint.name if endpoint else endpoint_id}"
                raise Error(Kind.NOT_FOUND, message, code="not_attached")
            changed = replace(
                attachment,
                drained=attachment.drained if drained is None else drained,
                weight=attachment.weight if weight is None else weight,
            )
            await self._records.commit(put=[changed])
            await self.rebalance(self._network(endpoint), endpoint)

    def _network(self, endpoint: Endpoint) -> Network:
        network = self._records.network(endpoint.network_id)
        if network is None:
            raise not_found("network", endpoint.network_id)
        return network

    async def _promote_one(self, network: Network, endpoint: Endpoint) -> None:
        """Make the first possible backend the holder of the address.

        A backend whose sandbox no longer exists cannot hold it, and must not block the leave of the other.
        """
        for candidate in self.ready(endpoint):
            try:
                await self._promote(network, endpoint, candidate)
            except Error as failure:
                _log.warning("%s cannot take over %s: %s", candidate.container_id, endpoint.name, failure)
            else:
                return

    async def _promote(self, network: Network, endpoint: Endpoint, successor: Attachment) -> None:
        sandbox = self._records.sandbox(successor.container_id)
        successor = replace(successor, holder=True)
        driver = self._context.drivers[network.driver]
        job: Callable[[Step], None] = _run_step
        veth = driver.link(network, endpoint, successor)
        if sandbox and veth:
            veth = veth._replace(alias=attachment_alias(endpoint, sandbox, successor))
            job = partial(_plug, self._context.kernel, sandbox.key, veth)
        await driver.join(network, endpoint, successor, lambda step: self._context.workers.run(job, step))
        await self._records.commit(put=[successor])


def _plug(kernel: Kernel, key: str, veth: Veth, step: Step) -> None:
    step()
    kernel.links.plug(key, veth)


def _run_step(step: Step) -> None:
    step()
