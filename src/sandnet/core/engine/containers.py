"""Follow the containers of an engine after their joins: their namespaces appear later, and so do their names."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from msgspec.structs import replace

from sandnet.core.engine.engine_api import EngineApi
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.errors import Error
from sandnet.kernel.namespace_protocols import Namespaces
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Origin, Phase
from sandnet.threads import JobThreads

TIMEOUT: Final = 60.0
"""Seconds after a join in which the engine creates the namespace; it takes a tenth of one."""
_PAUSES: Final = (0.005, 0.25)
"""Seconds between two checks: at first, and at most."""
_API_THREADS: Final = 2
"""Threads that wait for the engine. It answers about a container only after its start, for which it waits for the
daemon in turn: so these waits may not take the threads that do the daemon's own work."""
_log = logging.getLogger(__name__)


class EngineContainers:
    """Serves names to engines' containers, and learns theirs."""

    def __init__(
        self,
        records: Records,
        locks: Locks,
        resolver_sync: ResolverSync,
        namespaces: Namespaces,
        workers: Workers,
        api: EngineApi,
        network_label: str,
    ) -> None:
        """Initialize without any container.

        Args:
            records: sandboxes, endpoints, attachments.
            locks: those of all objects.
            resolver_sync: learns names and clients.
            namespaces: finds a container's namespace.
            workers: threads for calls to the kernel.
            api: the engine's.
            network_label: the label of endpoints that has the engine's id of the network.
        """
        self._records, self._locks, self._resolver_sync = records, locks, resolver_sync
        self._namespaces, self._workers, self._api, self._label = namespaces, workers, api, network_label
        self._api_threads = JobThreads(_API_THREADS, "engine-api")
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Follow the containers that were attached before."""
        for sandbox in self._records.sandboxes():
            if sandbox.origin is Origin.EXTERNAL:
                self.follow(sandbox.container_id)

    def close(self) -> None:
        """Follow no container any more."""
        for task in self._tasks:
            task.cancel()
        self._api_threads.close(wait=False)

    async def key_of(self, path: str) -> str:
        """Return the path at which an engine pins a namespace as a key of sandboxes, where it is one."""
        return await self._workers.run(self._namespaces.key_of, path)

    def follow(self, container_id: str) -> None:
        """Serve names to a container once its namespace exists, and learn its names; in the background."""
        if not (self._resolver_sync.serves or self._api.path):
            return
        task = asyncio.get_running_loop().create_task(self._follow(container_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, container_id: str) -> None:
        try:
            await self._with_namespace(container_id)
        except Error as failure:  # the engine pins it elsewhere; its own names are learnt nevertheless
            _log.warning("no names are served in container %s: %s", container_id, failure)
        try:
            for attachment in self._records.attachments_of_container(container_id):
                await self._learn(attachment)
        except Error as failure:
            _log.warning("names of container %s: %s", container_id, failure)

    async def _with_namespace(self, container_id: str) -> None:
        """Wait for the namespace, and record it, unless the container is removed, or has none in time.

        Raises:
            Error: ``INVALID``: the engine pins it outside of the sandbox directory.
        """
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + TIMEOUT, _PAUSES[0]
        while loop.time() < end:
            sandbox = self._records.sandbox(container_id)
            if sandbox is None or sandbox.inode or sandbox.phase is Phase.REMOVING:
                return
            found = await self._workers.run(self._namespaces.find, sandbox.key)
            if found and await self._serve(container_id, found.inode):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _PAUSES[1])

    async def _serve(self, container_id: str, inode: int) -> bool:
        async with self._locks.hold(f"sandbox/{container_id}"):
            sandbox = self._records.sandbox(container_id)
            if sandbox is None or sandbox.phase is not Phase.READY:
                return False
            sandbox = replace(sandbox, inode=inode)
            await self._records.commit(put=[sandbox])
            for attachment in self._records.attachments_of_container(container_id)[:1]:
                await self._resolver_sync.attachment_added(sandbox, attachment)
            return True

    async def _learn(self, attachment: Attachment) -> None:
        """Give an endpoint the names and labels that its container has in the engine."""
        endpoint = self._records.endpoint(attachment.endpoint_id)
        network_id = endpoint.labels.get(self._label, "") if endpoint else ""
        if not self._api.path or not network_id:
            return
        ask = partial(self._api.container, network_id, attachment.endpoint_id)
        loop = asyncio.get_running_loop()
        end, facts = loop.time() + TIMEOUT, None
        while facts is None and loop.time() < end and self._records.endpoint(attachment.endpoint_id):
            facts = await self._api_threads.submit(ask)
            if facts is None:
                await asyncio.sleep(_PAUSES[1])
        async with self._locks.hold(f"endpoint/{attachment.endpoint_id}"):
            endpoint, network = (
                self._records.endpoint(attachment.endpoint_id),
                self._records.network(attachment.network_id),
            )
            if facts and endpoint and network and endpoint.phase is Phase.READY:
                named = replace(endpoint, aliases=facts.names, labels={**facts.labels, self._label: network_id})
                if named != endpoint:
                    await self._records.commit(put=[named])
                    await self._resolver_sync.endpoint_added(network, named)
