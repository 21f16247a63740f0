"""Attachments on other hosts, and whether this host's own still count."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from sandnet.core.cluster.shared_values import AttachmentKey, attachment_key
from sandnet.core.cluster.view import Held
from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.replication.peer_replicas import PeerReplicas, remote_attachments
from sandnet.core.replication.pending_rebalances import PendingRebalances
from sandnet.core.runtime.context import Cluster
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.leases import Leases
from sandnet.core.state.records import Records
from sandnet.core.state.shared_writer import CLAIMED_ELSEWHERE
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Interface, Network, Phase
from sandnet.model.remote_attachment import RemoteAttachment

_log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 10.0
"""Seconds from a failed takeover of an address to the next; they double from the first to the longest. Each attempt
changes the shared store, so without a pause the watch of that would lead to the next one at once."""


class _FailedTakeover(NamedTuple):
    until: float
    pause: float
    failure: Error


class AttachmentReplicas:
    """Keeps names, peers and balancing up to date with other hosts' containers, and claims this host's own again."""

    def __init__(
        self,
        records: Records,
        cluster: Cluster,
        peers: PeerReplicas,
        locks: Locks,
        leases: Leases,
        resolver_sync: ResolverSync,
        sandboxes: Sandboxes,
        backends: Backends,
        rebalances: PendingRebalances,
    ) -> None:
        self._records = records
        _, self._view, self._membership, self._shared = cluster
        self._peers, self._locks, self._leases, self._resolver_sync = peers, locks, leases, resolver_sync
        self._sandboxes, self._backends, self._rebalances = sandboxes, backends, rebalances
        self._failed: dict[str, _FailedTakeover] = {}
        """By endpoint: its address could not be taken over a moment ago."""

    async def sync(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        """Bring the attachments to an endpoint into line; ``None``: it is not on this host."""
        known = [each.network_id for each in self._records.remote.of_endpoint(endpoint_id)]
        network_id = endpoint.network_id if endpoint else next(iter(known), "") or self._peers.network_of(endpoint_id)
        network = self._records.network(network_id)
        await self._sync_remote(endpoint_id, network, endpoint)
        if network:
            await self._peers.sync(network, endpoint_id, endpoint, self._records.remote.of_endpoint(endpoint_id))
        if self._membership.joined and self._membership.number:
            await self._sync_own(endpoint_id)
            if network and endpoint:
                await self._sync_holder(network, endpoint)
        if endpoint is None:
            self._failed.pop(endpoint_id, None)

    # Those of other hosts.

    async def _sync_remote(self, endpoint_id: str, network: Network | None, endpoint: Endpoint | None) -> None:
        await self._replace_remote(endpoint_id, network, endpoint)
        await self._rebalances.apply(endpoint_id)

    async def _replace_remote(self, endpoint_id: str, network: Network | None, endpoint: Endpoint | None) -> None:
        before = self._records.remote.of_endpoint(endpoint_id)
        after = remote_attachments(self._view, self._membership.name, endpoint_id) if endpoint else []
        if list(before) == after:
            return
        gone = [each for each in before if each not in after]
        new = [each for each in after if each not in before]
        self._records.remote.replace(endpoint_id, after)
        self._rebalances.add(endpoint_id)
        if network:
            self._leases.release(network, *_leased(gone))
            self._leases.hold(network, *_leased(after))
        await self._resolver_sync.remote_changed(gone, new)

    # This host's own.

    async def _sync_own(self, endpoint_id: str) -> None:
        """Claim attachments again whose lease has ended, and release those that this host does not have."""
        held = {each.key.container_id: each for each in self._own(endpoint_id)}
        local = {each.container_id: each for each in self._records.attachments_of_endpoint(endpoint_id)}
        for container_id in held.keys() | local.keys():
            async with self._locks.hold(f"endpoint/{endpoint_id}", f"sandbox/{container_id}"):
                lost = await self._sync_container(AttachmentKey(endpoint_id, self._membership.name, container_id))
            if lost:
                await self._sandboxes.drop(lost)

    def _own(self, endpoint_id: str) -> list[Held]:
        return [each for each in self._view.attachments(endpoint_id) if each.key.host == self._membership.name]

    async def _sync_container(self, key: AttachmentKey) -> Attachment | None:
        """Bring one attachment into line; return it, if another host has its place now."""
        held, local = self._view.attachment(key), self._records.attachment(key.container_id, key.endpoint_id)
        if local is None:
            if held:
                await self._shared.attachments.release([held])
            return None
        if local.phase is not Phase.READY or self._view.endpoint(key.endpoint_id) is None:
            return None
        if held and held.attachment.number == self._membership.number:
            await self._adopt_changes(local, held)
            return None
        try:
            await self._shared.attachments.claim(local, self._records.sandbox(local.container_id))
        except Error as failure:
            raced = failure.code == CLAIMED_ELSEWHERE and not self._shared.attachments.is_taken(local)
            if failure.kind is Kind.UNAVAILABLE or raced:
                raise
            _log.warning("container %s loses its endpoint: %s", local.container_id, failure)
            return local
        return None

    async def _adopt_changes(self, local: Attachment, held: Held) -> None:
        """Take the weight and the drain that another host has set."""
        shared = held.attachment
        after = replace(local, weight=shared.weight, drained=shared.drained)
        if after != local:
            await self._records.commit(put=[after], shared=False)
            endpoint = self._records.endpoint(local.endpoint_id)
            network = self._records.network(local.network_id)
            if endpoint and network:
                await self._backends.rebalance(network, endpoint)

    async def _sync_holder(self, network: Network, endpoint: Endpoint) -> None:
        """Take the endpoint's address over when the host is away that had it. One of several hosts does.

        Also finish that where it failed after the address was claimed.

        Raises:
            Error: no backend of this host could take it, now or shortly before, and none of another one has.
        """
        if not self._backends.ready(endpoint) or not self._is_unanswered(endpoint):
            self._failed.pop(endpoint.id, None)
            return
        failed = self._failed.get(endpoint.id)
        if failed and time.monotonic() < failed.until:
            raise failed.failure.with_traceback(None)
        async with self._locks.hold(f"endpoint/{endpoint.id}"):
            failure = await self._take_over(network, endpoint)
            if failure and self._is_unanswered(endpoint):
                pause = min(failed.pause * 2, LONGEST_PAUSE) if failed else FIRST_PAUSE
                self._failed[endpoint.id] = _FailedTakeover(time.monotonic() + pause, pause, failure)
                raise failure

    def _is_unanswered(self, endpoint: Endpoint) -> bool:
        return not self._view.is_held(endpoint.id) or bool(self._unfinished(endpoint))

    async def _take_over(self, network: Network, endpoint: Endpoint) -> Error | None:
        """Let the first possible backend answer for the address; return the first failure of those before it."""
        first: Error | None = None
        unfinished = self._unfinished(endpoint)
        others = [each for each in self._backends.ready(endpoint) if each not in unfinished]
        for candidate in (*unfinished, *others):
            if candidate in others and (
                self._view.is_held(endpoint.id) or not await self._shared.attachments.claim_address(candidate)
            ):
                continue
            try:
                await self._backends.take_over(network, endpoint, candidate)
            except Error as failure:
                _log.warning("%s cannot take over %s: %s", candidate.container_id, endpoint.name, failure)
                first = first or failure
        return first

    def _unfinished(self, endpoint: Endpoint) -> list[Attachment]:
        """Return the attachment of this host that has the endpoint's address in the store, and not here; or none."""
        holder = self._view.holder(endpoint.id)
        held_by = attachment_key(holder.value.decode()) if holder else None
        return [
            each
            for each in self._backends.ready(endpoint)
            if not each.holder and held_by == AttachmentKey(endpoint.id, self._membership.name, each.container_id)
        ]


def _leased(attachments: Sequence[RemoteAttachment]) -> Iterator[Interface | None]:
    """Yield the addresses that attachments have besides their endpoint's."""
    for attachment in attachments:
        if attachment.leased:
            yield attachment.address
            yield attachment.address_ipv6
