"""``parent_updates`` of a join: names under which other containers are to find the joining one.

Pending updates are kept in the joining container's own record, from the commit that ends the join until all of them are
delivered. So a crash in between loses none: the next start continues.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from sandnet.core.lifecycle.join_plan import with_parent_host
from sandnet.core.names.host_files import HostFiles
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.errors import Error
from sandnet.model import HostEntry, Network, ParentUpdate, Phase, Sandbox

MAX_PENDING = 4096
"""The number of pending updates of a sandbox: those of four joins whose delivery failed; the latest are kept."""

_log = logging.getLogger(__name__)


class ParentUpdates:
    """Delivers the ``parent_updates`` of joins to the other containers."""

    def __init__(self, records: Records, locks: Locks, host_files: HostFiles) -> None:
        self._records = records
        self._locks = locks
        self._host_files = host_files

    def with_pending(self, sandbox: Sandbox, network: Network, updates: Sequence[ParentUpdate]) -> Sandbox:
        """Return the record with the updates to deliver, without those for endpoints that this network does not
        have.
        """
        named = ((update, self._endpoint(network, update.endpoint_id)) for update in updates)
        pending = tuple(replace(update, endpoint_id=ident) for update, ident in named if ident)
        return (
            replace(sandbox, parent_updates=(*sandbox.parent_updates, *pending)[-MAX_PENDING:]) if pending else sandbox
        )

    def _endpoint(self, network: Network, ref: str) -> str:
        """Return the id of the network's endpoint with that id, name or unique id prefix; else an empty string."""
        own = {endpoint.id: endpoint.name for endpoint in self._records.endpoints_of(network.id)}
        if ref in own:
            return ref
        found = [ident for ident, name in own.items() if name == ref]
        found = found or [ident for ident in own if ident.startswith(ref)]
        return found[0] if len(found) == 1 else ""

    async def deliver(self, sandbox: Sandbox) -> None:
        """Deliver the pending updates of ``sandbox``, then remove them from its record.

        Failed ones are left for the next start.
        """
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
        async with self._locks.hold(f"sandbox/{container_id}"):
            sandbox = self._records.sandbox(container_id)
            if sandbox is None or sandbox.phase is not Phase.READY:
                return
            entry = HostEntry(name=update.name, address=update.address)
            await self._records.commit(put=[with_parent_host(sandbox, update.name, entry)])
        self._host_files.mark_dirty([container_id])
        await self._host_files.flush()

    async def _forget(self, delivered: Sandbox) -> None:
        async with self._locks.hold(f"sandbox/{delivered.container_id}"):
            sandbox = self._records.sandbox(delivered.container_id)
            if sandbox and sandbox.phase is Phase.READY:
                left = tuple(update for update in sandbox.parent_updates if update not in delivered.parent_updates)
                await self._records.commit(put=[replace(sandbox, parent_updates=left)])
