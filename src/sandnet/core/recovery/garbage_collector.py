"""Garbage collection: remove what failed changes have left half-way, while the daemon runs.

A change that fails is rolled back. Where the rollback fails too (the disk is full, the kernel refuses), the record
keeps its phase, and names what has to be removed. The next request for the same object finishes that, and so does the
next start. Where neither comes, this does.

Of what all hosts share, this removes what is still being created: an endpoint for all hosts, since the shared store may
have it, and a network on this host alone. The follower of the shared store (``core/replication``) makes the network
again if the store has it, and finishes what is being removed: it knows whether other hosts use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Final

from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.records import Records
from sandnet.core.state.schema import Record, key_of
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

_log = logging.getLogger(__name__)

INTERVAL: Final = 15.0
"""Seconds from one collection to the next. A record that is half-way and unchanged in two of them was left by a failed
change."""


class GarbageCollector:
    """Finishes what is neither ready nor in progress.

    Args:
        records: the current records.
        runtime: runs the removals; the locks that changes in progress hold.
        lifecycle: the steps that failed requests are rolled back with.
        removal: finishes deletions.
    """

    def __init__(
        self,
        records: Records,
        runtime: tuple[Operations, Locks],
        lifecycle: tuple[Networks, Endpoints, Sandboxes],
        removal: Deletion,
    ) -> None:
        self._records, self._removal = records, removal
        self._operations, self._locks = runtime
        self._networks, self._endpoints, self._sandboxes = lifecycle
        self._seen: Mapping[str, Record] = {}
        self._task: asyncio.Task[None] | None = None
        self._problems: list[str] = []

    @property
    def problems(self) -> list[str]:
        """What could not be removed, as texts for health."""
        return self._problems

    def start(self) -> None:
        """Collect now and then from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Stop. The operations finish a removal in progress."""
        if self._task:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.collect()
            except Exception:  # the next collection must not be lost
                _log.exception("what failed changes have left was not looked for")

    async def collect(self) -> None:
        """Remove what was half-way in the collection before, and has not changed since."""
        free = (each for each in self._half_way() if self._locks.are_free(*_locks_of(each)))
        before, self._seen = self._seen, {key_of(each): each for each in free}
        problems = [
            text for key, each in self._seen.items() if before.get(key) == each if (text := await self._try(each))
        ]
        for text in problems:
            if text not in self._problems:
                _log.warning("%s", text)
        self._problems = problems

    def _half_way(self) -> Iterator[Record]:
        """Yield what is not ready: attachments first, as nothing can be removed below them."""
        yield from (each for each in self._records.attachments() if each.phase is not Phase.READY)
        yield from (each for each in self._records.sandboxes() if each.phase is not Phase.READY)
        for endpoint in self._records.endpoints():
            if self._is_left(endpoint.phase, self._records.network(endpoint.network_id)):
                yield endpoint
        yield from (net for net in self._records.networks() if self._is_left(net.phase, net))

    def _is_left(self, phase: Phase, network: Network | None) -> bool:
        """Return whether this, not the follower of the shared store, removes what is in that phase."""
        is_shared = network is not None and self._networks.scope(network) == "global"
        return phase is Phase.CREATING or (phase is Phase.REMOVING and not is_shared)

    async def _try(self, record: Record) -> str:
        """Remove what a record names; return why that is not possible, or the empty string."""
        what = _described(record)
        try:
            await self._operations.run(self._finish(record))
        except Error as failure:
            return "" if failure.kind is Kind.NOT_FOUND else f"{what} is left of a failed change: {failure}"
        except Exception:
            _log.exception("%s is left of a failed change", what)
            return f"{what} is left of a failed change, and cannot be removed"
        _log.info("%s was left of a failed change, and is removed", what)
        return ""

    async def _finish(self, record: Record) -> None:
        """Finish one removal. If a change has begun in this moment, this waits for its locks, and finds it ready."""
        match record:
            case Attachment():
                await self._sandboxes.finish_interrupted(record.endpoint_id, record.container_id)
            case Sandbox():
                await self._sandboxes.finish_interrupted("", record.container_id)
            case Endpoint(phase=Phase.REMOVING):
                await self._removal.endpoint_within(record.id)
            case Endpoint():
                await self._endpoints.finish_interrupted(self._networks.get(record.network_id), record.name)
            case Network(phase=Phase.REMOVING):
                await self._removal.network_within(record.id)
            case Network():
                await self._networks.finish_interrupted(record.name)


def _locks_of(record: Record) -> tuple[str, ...]:
    """Return the locks that a change of the object holds."""
    match record:
        case Attachment():
            return f"endpoint/{record.endpoint_id}", f"sandbox/{record.container_id}"
        case Sandbox():
            return (f"sandbox/{record.container_id}",)
        case Endpoint():
            return (f"endpoint/{record.id}",)
        case Network():
            return (f"network/{record.id}",)


def _described(record: Record) -> str:
    match record:
        case Attachment() | Sandbox():
            return f"container {record.container_id}"
        case Endpoint():
            return f"endpoint {record.name}"
        case Network():
            return f"network {record.name}"
