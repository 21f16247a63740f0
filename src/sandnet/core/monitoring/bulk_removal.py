"""Bulk removal of sandboxes whose containers exited at the same time.

They share commits, kernel requests and transactions. The deletion of a link costs the kernel a grace period of some 20
ms, for one link or sixty, and every program that waits for the same lock of the kernel waits with it. So a thousand
sandboxes are removed in bulk, by the steps of a leave. Sandboxes that are no simple case (several networks, a backend
beside others, an endpoint that is deleted along or is a plugin's, a phase other than ``ready``) are left for removal
one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.sandbox_setup import Teardown, tear_down_all
from sandnet.core.runtime.context import Context
from sandnet.drivers.base import ExternalDriver
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

TIMEOUT: Final = 1.0
"""Seconds to wait for the locks of all of them: one that an operation is changing must not delay the others."""


class BulkRemoval:
    """Removes the sandboxes of many exited containers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._backends = Backends(context)

    async def remove_all(self, sandboxes: Iterable[Sandbox]) -> set[str]:
        """Remove those sandboxes that are simple cases.

        Returns:
            The container ids of the sandboxes that are completely removed; the others are left for removal one by one.

        Raises:
            Error: ``UNAVAILABLE`` an operation is changing one of them, or the store or the kernel is away. The records
                show what has begun, and removal one by one finishes it.
        """
        simple = [(sandbox, last) for sandbox in sandboxes if (last := self._only_attachment(sandbox))]
        names = (
            name
            for sandbox, last in simple
            for name in (f"sandbox/{sandbox.container_id}", f"endpoint/{last.endpoint_id}")
        )
        async with self._context.locks.hold(*names, max_wait=TIMEOUT):
            unchanged = [(sandbox, last) for sandbox, last in simple if self._only_attachment(sandbox) == last]
            return await self._remove(unchanged) if unchanged else set()

    def _only_attachment(self, sandbox: Sandbox) -> Attachment | None:
        """Return the only attachment of a sandbox, if both are ready and no other is attached to its endpoint."""
        if self._records.sandbox(sandbox.container_id) != sandbox or sandbox.phase is not Phase.READY:
            return None
        attachments = self._records.attachments_of_container(sandbox.container_id)
        if len(attachments) != 1 or attachments[0].phase is not Phase.READY or attachments[0].leased:
            return None
        alone = len(self._records.attachments_of_endpoint(attachments[0].endpoint_id)) == 1
        found = self._network_and_endpoint(attachments[0])
        simple = alone and found and not found[1].owner and not self._is_external(found[0])
        return attachments[0] if simple else None

    def _is_external(self, network: Network) -> bool:
        """Return whether the removal waits for another program, which may not delay the removal of others."""
        return isinstance(self._context.drivers[network.driver], ExternalDriver)

    def _network_and_endpoint(self, attachment: Attachment) -> tuple[Network, Endpoint] | None:
        network, endpoint = self._records.network(attachment.network_id), self._records.endpoint(attachment.endpoint_id)
        return (network, endpoint) if network and endpoint and endpoint.phase is Phase.READY else None

    async def _remove(self, exited: Sequence[tuple[Sandbox, Attachment]]) -> set[str]:
        """Remove sandboxes with one attachment each; their locks are held."""
        leaving = [
            (replace(sandbox, phase=Phase.REMOVING), replace(last, phase=Phase.REMOVING)) for sandbox, last in exited
        ]
        ends = [found for _, last in leaving if (found := self._network_and_endpoint(last))]
        orphaned = [replace(endpoint, orphaned=True) for _, endpoint in ends if not endpoint.orphaned]
        await self._records.commit(put=[*orphaned, *(each for pair in leaving for each in pair)])
        await self._context.resolver_sync.attachments_removed([last for _, last in leaving])
        for network, endpoint in ends:
            await self._backends.rebalance(network, endpoint)
        teardowns = [Teardown(sandbox, last, self._context.host_files.remove_job(sandbox)) for sandbox, last in leaving]
        incomplete = await self._context.workers.run(tear_down_all, self._context.kernel, teardowns)
        removed = [(sandbox, last) for sandbox, last in leaving if sandbox.container_id not in incomplete]
        await self._leave_networks([last for _, last in removed])
        await self._records.commit(delete=[each for sandbox, last in removed for each in (last, sandbox)])
        return {sandbox.container_id for sandbox, _ in removed}

    async def _leave_networks(self, removed: Sequence[Attachment]) -> None:
        by_network: dict[str, list[Attachment]] = {}
        for attachment in removed:
            by_network.setdefault(attachment.network_id, []).append(attachment)
        for network_id, some in by_network.items():
            network = self._records.network(network_id)
            if network:
                await self._context.drivers[network.driver].leave(network, some, self._context.workers.run)
