"""Endpoints that other hosts create and delete, and their attachments there."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from msgspec.structs import replace

from sandnet.core.cluster.shared_values import SharedEndpoint, shared_endpoint
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.updates.endpoint_update import EndpointUpdates
from sandnet.core.names.host_files import HostFiles
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.runtime.context import Cluster
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.leases import Leases
from sandnet.core.state.records import Records
from sandnet.model import Endpoint, Network, Phase

_log = logging.getLogger(__name__)


class EndpointReplicas:
    """Keeps a copy of each endpoint that counts, with its names and its addresses."""

    def __init__(
        self,
        records: Records,
        cluster: Cluster,
        locks: Locks,
        leases: Leases,
        resolver_sync: ResolverSync,
        host_files: HostFiles,
        removal: Deletion,
        updates: EndpointUpdates,
    ) -> None:
        self._records = records
        _, self._view, self._membership, self._shared = cluster
        self._locks, self._leases, self._removal, self._updates = locks, leases, removal, updates
        self._resolver_sync, self._host_files = resolver_sync, host_files
        self._unanswered: set[str] = set()
        """Endpoints whose containers were all on hosts that are away: their names are not answered."""
        self._limited: set[str] = set()
        """Endpoints whose containers do not have the limits of the record yet: an attempt may have failed after it."""
        self._avoided: dict[str, str] = {}
        """Endpoints with addresses that are allocated last, and their networks."""

    async def sync(self, endpoint_id: str) -> Endpoint | None:
        """Bring an endpoint into line; return it, if it is on this host now.

        The lock of the endpoint is held, but for a deletion, which takes it again.
        """
        self._avoid_void(endpoint_id)
        async with self._locks.hold(f"endpoint/{endpoint_id}"):
            shared, local = self._view.endpoint(endpoint_id), self._records.endpoint(endpoint_id)
            own = shared is not None and shared.host == self._membership.name
            if shared and not own and not self._view.counts_endpoint(shared):
                shared = None
            if shared:
                network = self._records.network(shared.endpoint.network_id)
                if network is None or network.phase is not Phase.READY:
                    return None  # it is tried again when its network is there
                ended = own and shared.number != 0 and (local is None or local.phase is Phase.REMOVING)
                if ended and self._is_attached_elsewhere(endpoint_id):
                    await self._shared.end_owned_endpoint(endpoint_id)  # other hosts' containers have kept it
                if ended and local is None:
                    await self._shared.delete_endpoint(shared.endpoint)  # its owner ended while the store was away
                    return None
                if ended:
                    shared = None
                else:
                    kept = await self._keep(network, local, shared, own=own)
                    await self._answer(network, kept)
            deleted = local is not None and local.phase is not Phase.CREATING and self._is_shared(local)
        if shared:
            if endpoint_id in self._limited:
                await self._updates.apply(endpoint_id)
                self._limited.discard(endpoint_id)
            return kept
        if deleted:
            self._limited.discard(endpoint_id)
            self._unanswered.discard(endpoint_id)
            self._log_detached(endpoint_id)
            with nullcontext() if own else self._shared.only_here(endpoint_id):
                await self._removal.endpoint_within(endpoint_id, force=True)
        return None

    def _is_attached_elsewhere(self, endpoint_id: str) -> bool:
        held = self._view.attachments(endpoint_id)
        return any(each.key.host != self._membership.name for each in held)

    def _avoid_void(self, endpoint_id: str) -> None:
        """Let addresses that no longer count be allocated last: after a short outage their host claims them again."""
        shared = self._view.endpoint(endpoint_id)
        void = [
            held.attachment for held in self._view.attachments(endpoint_id) if not self._view.counts(held.attachment)
        ]
        interfaces = [each for own in void if own.leased for each in (own.address, own.address_ipv6)]
        if shared and not self._view.counts_endpoint(shared):
            interfaces += shared.endpoint.addresses
        if shared and interfaces:
            self._avoided[endpoint_id] = shared.endpoint.network_id
            self._leases.avoid(shared.endpoint.network_id, endpoint_id, *interfaces)
        elif network_id := self._avoided.pop(endpoint_id, ""):
            self._leases.avoid(network_id, endpoint_id)

    def _log_detached(self, endpoint_id: str) -> None:
        """Name the containers of this host whose endpoint another host has deleted, after the lease had ended."""
        for attachment in self._records.attachments_of_endpoint(endpoint_id):
            _log.warning("container %s loses its endpoint: another host deleted it", attachment.container_id)

    def _is_shared(self, endpoint: Endpoint) -> bool:
        """Return whether the endpoint is of a network of all hosts, which still exists."""
        return self._view.network(endpoint.network_id) is not None

    async def _keep(self, network: Network, local: Endpoint | None, shared: SharedEndpoint, *, own: bool) -> Endpoint:
        if local is None:
            copy = replace(shared.endpoint, sequence=self._records.next_sequence())
            copy = copy if own else replace(copy, owner="")  # its owner is on another host
            self._leases.hold(network, *copy.addresses)
            await self._records.commit(put=[copy], shared=False)
            await self._resolver_sync.endpoint_added(network, copy)
            self._host_files.changed(copy, network)
            return copy
        if local.phase is Phase.CREATING:
            return local
        ports = local.ports
        if local.phase is not Phase.READY:  # a removal that the store refused has closed them, one that failed may not
            await self._removal.close_ports(local)
            ports = ()
        after = replace(shared.endpoint, sequence=local.sequence, ports=ports, process=local.process)
        after = replace(after, ports_withdrawn=local.ports_withdrawn)
        after = replace(after, orphaned=local.orphaned) if own else replace(after, owner="")
        if after.bandwidth != local.bandwidth:
            self._limited.add(after.id)
        if after != local:  # also on the host that created it: its own state may be an earlier one
            await self._records.commit(put=[after], shared=False)
            await self._resolver_sync.endpoint_added(network, after)
        value = shared_endpoint(after, shared.host, self._membership.number)
        if own and shared != replace(value, ports=after.ports or shared.ports):
            await self._records.commit(put=[after])  # its lease is another one now, or its last container has ended
        return after

    async def _answer(self, network: Network, endpoint: Endpoint) -> None:
        """Answer the endpoint's names, unless all containers that it has are on hosts that are away."""
        away = bool(self._view.attachments(endpoint.id)) and not self._view.counted(endpoint.id)
        if away and endpoint.id not in self._unanswered:
            self._unanswered.add(endpoint.id)
            await self._resolver_sync.endpoint_removed(endpoint)
        elif not away and endpoint.id in self._unanswered:
            self._unanswered.discard(endpoint.id)
            await self._resolver_sync.endpoint_added(network, endpoint)
