"""The end of containers that died together: they share commits, kernel requests and transactions.

Taking a link away costs the kernel a grace period of some 20 ms, one or sixty at a time, and whoever waits for the
same lock of the kernel waits with it. So a thousand that die at once are taken in bulk, by the steps of a leave. Those
that are no plain case (several networks, a backend beside others, something half-way) are left to go one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.sandbox_setup import Teardown, tear_down_all
from sandnet.core.runtime.context import Context
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

TIMEOUT: Final = 1.0
"""Seconds to wait for the locks of all of them: one that somebody is busy with must not hold up the others."""


class BulkRemoval:
    """Takes many dead containers off their endpoints."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._backends = Backends(context)

    async def remove_all(self, sandboxes: Iterable[Sandbox]) -> set[str]:
        """Let go of those that are plain cases.

        Returns:
            The containers that are gone wholly; the others wait to be taken one by one.

        Raises:
            Error: ``UNAVAILABLE`` somebody is busy with one of them, the store or the kernel is away. The records say
                what has begun, and taking them one by one finishes it.
        """
        wanted = [(sandbox, last) for sandbox in sandboxes if (last := self._plain(sandbox))]
        names = (
            name
            for sandbox, last in wanted
            for name in (f"sandbox/{sandbox.container_id}", f"endpoint/{last.endpoint_id}")
        )
        async with self._context.locks.hold(*names, max_wait=TIMEOUT):
            still = [(sandbox, last) for sandbox, last in wanted if self._plain(sandbox) == last]
            return await self._remove(still) if still else set()

    def _plain(self, sandbox: Sandbox) -> Attachment | None:
        """The one attachment of a sandbox that is whole, and alone at its endpoint."""
        if self._records.sandbox(sandbox.container_id) != sandbox or sandbox.phase is not Phase.READY:
            return None
        attachments = self._records.attachments_of_container(sandbox.container_id)
        if len(attachments) != 1 or attachments[0].phase is not Phase.READY or attachments[0].leased:
            return None
        alone = len(self._records.attachments_of_endpoint(attachments[0].endpoint_id)) == 1
        return attachments[0] if alone and self._ends(attachments[0]) else None

    def _ends(self, attachment: Attachment) -> tuple[Network, Endpoint] | None:
        network, endpoint = self._records.network(attachment.network_id), self._records.endpoint(attachment.endpoint_id)
        return (network, endpoint) if network and endpoint and endpoint.phase is Phase.READY else None

    async def _remove(self, dead: Sequence[tuple[Sandbox, Attachment]]) -> set[str]:
        """Under their locks."""
        leaving = [
            (replace(sandbox, phase=Phase.REMOVING), replace(last, phase=Phase.REMOVING)) for sandbox, last in dead
        ]
        ends = [found for _, last in leaving if (found := self._ends(last))]
        orphaned = [replace(endpoint, orphaned=True) for _, endpoint in ends if not endpoint.orphaned]
        await self._records.commit(put=[*orphaned, *(each for pair in leaving for each in pair)])
        await self._context.resolver_sync.attachments_removed([last for _, last in leaving])
        for network, endpoint in ends:
            await self._backends.rebalance(network, endpoint)
        remains = [Teardown(sandbox, last, self._context.host_files.remove_job(sandbox)) for sandbox, last in leaving]
        left = await self._context.workers.run(tear_down_all, self._context.kernel, remains)
        gone = [(sandbox, last) for sandbox, last in leaving if sandbox.container_id not in left]
        await self._leave_networks([last for _, last in gone])
        await self._records.commit(delete=[each for sandbox, last in gone for each in (last, sandbox)])
        return {sandbox.container_id for sandbox, _ in gone}

    async def _leave_networks(self, gone: Sequence[Attachment]) -> None:
        by_network: dict[str, list[Attachment]] = {}
        for attachment in gone:
            by_network.setdefault(attachment.network_id, []).append(attachment)
        for network_id, some in by_network.items():
            network = self._records.network(network_id)
            if network:
                await self._context.drivers[network.driver].leave(network, some)
