"""``parent_updates`` of a join: names that other containers are to know it by.

What is to be told stands in the joining container's own record, from the commit that ends the join until everybody has
been told. So a crash in between loses nothing: the next start goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from sandnet.core.lifecycle.join_plan import with_parent_host
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.model import HostEntry, Network, ParentUpdate, Phase, Sandbox

MAX_OWED = 4096
"""What a sandbox may still have to tell: four joins that failed to; of more the latest are kept."""

_log = logging.getLogger(__name__)


class ParentUpdates:
    """Tells containers what joins have asked to tell them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records

    def with_pending(self, sandbox: Sandbox, network: Network, updates: Sequence[ParentUpdate]) -> Sandbox:
        """The record with what is still to be told; endpoints that this network does not have are passed over."""
        named = ((update, self._endpoint(network, update.endpoint_id)) for update in updates)
        owed = tuple(replace(update, endpoint_id=ident) for update, ident in named if ident)
        return replace(sandbox, parent_updates=(*sandbox.parent_updates, *owed)[-MAX_OWED:]) if owed else sandbox

    def _endpoint(self, network: Network, ref: str) -> str:
        """The id of the network's endpoint with that id, that name, or an id that alone begins so; else nothing."""
        own = {endpoint.id: endpoint.name for endpoint in self._records.endpoints_of(network.id)}
        if ref in own:
            return ref
        found = [ident for ident, name in own.items() if name == ref]
        found = found or [ident for ident in own if ident.startswith(ref)]
        return found[0] if len(found) == 1 else ""

    async def deliver(self, sandbox: Sandbox) -> None:
        """Tell what ``sandbox`` owes, then forget it. What fails is left for the next start."""
        if not sandbox.parent_updates:
            return
        try:
            for update in sandbox.parent_updates:
                for attachment in self._records.attachments_of_endpoint(update.endpoint_id):
                    await self._deliver(attachment.container_id, update)
            await self._forget(sandbox)
        except Error as failure:  # the join itself is done and stays
            _log.warning("parents of %s do not know all its names: %s", sandbox.container_id, failure)

    async def _deliver(self, container_id: str, update: ParentUpdate) -> None:
        async with self._context.locks.hold(f"sandbox/{container_id}"):
            sandbox = self._records.sandbox(container_id)
            if sandbox is None or sandbox.phase is not Phase.READY:
                return
            entry = HostEntry(name=update.name, address=update.address)
            await self._records.commit(put=[with_parent_host(sandbox, update.name, entry)])
        self._context.host_files.mark_dirty([container_id])
        await self._context.host_files.flush()

    async def _forget(self, told: Sandbox) -> None:
        async with self._context.locks.hold(f"sandbox/{told.container_id}"):
            sandbox = self._records.sandbox(told.container_id)
            if sandbox and sandbox.phase is Phase.READY:
                left = tuple(update for update in sandbox.parent_updates if update not in told.parent_updates)
                await self._records.commit(put=[replace(sandbox, parent_updates=left)])
