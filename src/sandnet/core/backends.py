"""Several containers behind one endpoint: who takes new flows, and who answers for the address."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from sandnet.core.parts import Parts
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Phase

_log = logging.getLogger(__name__)


class Backends:
    """The attachments of one endpoint, seen together. Callers hold the endpoint's lock."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._records = parts.records

    def ready(self, endpoint: Endpoint) -> list[Attachment]:
        """Those that serve, the first attached first."""
        found = self._records.attachments_of_endpoint(endpoint.id)
        return [attachment for attachment in found if attachment.phase is Phase.READY]

    async def spread(self, network: Network, endpoint: Endpoint, *also: Attachment) -> None:
        """Make the driver spread new flows over those that serve, and over ``also``."""
        backends = [*self.ready(endpoint), *also]
        await self._parts.drivers[network.driver].balance(network, endpoint, backends)

    async def hand_over(self, network: Network, endpoint: Endpoint, leaving: Attachment) -> None:
        """Before ``leaving`` goes: let another answer for the address, and new flows go to others."""
        rest = [attachment for attachment in self.ready(endpoint) if attachment is not leaving]
        if leaving.holder and rest:
            await self._promote(network, endpoint, rest[0])
        await self.spread(network, endpoint)

    async def change(
        self, network: Network, endpoint: Endpoint, container_id: str, *, drained: bool | None, weight: int | None
    ) -> None:
        """Drain a backend, take it in again, or give it another share of the new flows.

        Raises:
            Error: ``NOT_FOUND`` when the container is not attached.
        """
        attachment = self._records.attachment(container_id, endpoint.id)
        if attachment is None or attachment.phase is not Phase.READY:
            message = f"container {container_id} is not attached to {endpoint.name}"
            raise Error(Kind.NOT_FOUND, message, code="not_attached")
        changed = replace(
            attachment,
            drained=attachment.drained if drained is None else drained,
            weight=attachment.weight if weight is None else weight,
        )
        await self._records.commit(put=[changed])
        await self.spread(network, endpoint)

    async def judge(self, network: Network, endpoint: Endpoint, container_id: str, *, healthy: bool) -> None:
        """Take a backend out of the rotation, or in again, as its probes say."""
        attachment = self._records.attachment(container_id, endpoint.id)
        if attachment and attachment.phase is Phase.READY and attachment.healthy is not healthy:
            await self._records.commit(put=[replace(attachment, healthy=healthy)])
            await self.spread(network, endpoint)

    async def _promote(self, network: Network, endpoint: Endpoint, successor: Attachment) -> None:
        box = self._records.sandbox(successor.container_id)
        successor = replace(successor, holder=True)
        await self._records.commit(put=[successor])
        veth = await self._parts.drivers[network.driver].join(network, endpoint, successor)
        if box and veth:
            try:
                await self._parts.workers.run(self._parts.kernel.links.plug, box.key, veth)
            except Error as failure:  # its sandbox died, say; that must not keep the other from leaving
                _log.warning("%s could not take over %s: %s", box.container_id, endpoint.name, failure)
