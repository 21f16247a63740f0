"""Backends: several containers behind one endpoint, load balancing of new flows, and failover of its address."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import roll_back
from sandnet.drivers.base import LoadBalancing
from sandnet.errors import Error, Kind, not_found
from sandnet.firewall.base import RunBetween, Step, no_step
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Veth
from sandnet.model import Attachment, Endpoint, Network, Phase
from sandnet.model.link_alias import attachment_alias

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Backends:
    """The attachments of one endpoint, together.

    Its lock must be held, but for the methods that take it: :meth:`change`, :meth:`set_health` and
    :meth:`rebalance_endpoint`. A join or leave in progress would otherwise undo what another one has set.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records

    def ready(self, endpoint: Endpoint) -> list[Attachment]:
        """Return the attachments that are ready, the first attached first."""
        found = self._records.attachments_of_endpoint(endpoint.id)
        return [attachment for attachment in found if attachment.phase is Phase.READY]

    def everywhere(self, endpoint: Endpoint) -> list[Attachment]:
        """Return the attachments that are ready, and then those on other hosts."""
        return [*self.ready(endpoint), *(each.as_backend() for each in self._records.remote.of_endpoint(endpoint.id))]

    async def rebalance(self, network: Network, endpoint: Endpoint) -> None:
        """Make the driver distribute new flows over the ready backends."""
        driver = self._context.drivers[network.driver]
        if isinstance(driver, LoadBalancing):
            await driver.balance(network, endpoint, self.everywhere(endpoint))

    async def rebalance_endpoint(self, endpoint_id: str) -> None:
        """Do as :meth:`rebalance`, once no join or leave is in progress; do nothing when the endpoint is deleted."""
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            network = self._records.network(endpoint.network_id) if endpoint else None
            if network and endpoint and endpoint.phase is Phase.READY:
                await self.rebalance(network, endpoint)

    async def join(self, network: Network, endpoint: Endpoint, attachment: Attachment, job: Callable[[Step], T]) -> T:
        """Run the job that sets the attachment up; beside other backends, it gets its part of new flows after that."""
        driver, run = self._context.drivers.working(network.driver), self._context.workers.run
        others = self.everywhere(endpoint)
        if others and isinstance(driver, LoadBalancing):
            backends = [*others, attachment]
            return await driver.join_backend(
                network, endpoint, attachment, backends, lambda first, last: run(_run_between, first, job, last)
            )
        return await driver.join(network, endpoint, attachment, lambda step: run(job, step))

    async def leave(self, network: Network, leaving: Attachment, tear_down: RunBetween[None]) -> None:
        """Run the job that removes the attachment; the remaining backends get its part of new flows before."""
        driver = self._context.drivers[network.driver]
        endpoint = self._records.endpoint(leaving.endpoint_id)
        if endpoint and isinstance(driver, LoadBalancing):
            await driver.leave_backend(network, endpoint, leaving, self.everywhere(endpoint), tear_down)
        else:
            await driver.leave(network, [leaving], lambda step: tear_down(no_step, step))

    async def fail_over(self, network: Network, endpoint: Endpoint, leaving: Attachment) -> None:
        """Move the endpoint's address from ``leaving`` to another backend, before it is removed."""
        if leaving.holder:
            await self._promote_one(network, endpoint)

    async def take_over(self, network: Network, endpoint: Endpoint, successor: Attachment) -> None:
        """Give the endpoint's address to a backend: no other host has it now."""
        await self._promote(network, endpoint, successor)

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

    async def _promote(self, network: Network, endpoint: Endpoint, backend: Attachment) -> None:
        """Make a backend the holder.

        Its record comes first: it claims the address, which is announced only after that. Another host may have it.
        """
        successor = replace(backend, holder=True)
        await self._records.commit(put=[successor])
        try:
            await self._set_up_holder(network, endpoint, successor)
        except BaseException:
            await roll_back(f"the address of {endpoint.name}", self._give_back(backend))
            raise

    async def _give_back(self, backend: Attachment) -> None:
        await self._records.commit(put=[backend])

    async def _set_up_holder(self, network: Network, endpoint: Endpoint, successor: Attachment) -> None:
        sandbox = self._records.sandbox(successor.container_id)
        driver = self._context.drivers[network.driver]
        job: Callable[[Step], None] = _run
        veth = driver.link(network, endpoint, successor)
        if sandbox and veth:
            veth = veth._replace(alias=attachment_alias(endpoint, sandbox, successor))
            job = partial(_plug, self._context.kernel, sandbox.key, veth)
        await driver.join(network, endpoint, successor, lambda step: self._context.workers.run(job, step))


def _plug(kernel: Kernel, key: str, veth: Veth, step: Step) -> None:
    step()
    kernel.links.plug(key, veth)


def _run(step: Step) -> None:
    step()


def _run_between(first: Step, job: Callable[[Step], T], last: Step) -> T:
    result = job(first)
    last()
    return result
