"""Attachments on other hosts, and whether this host's own still count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from sandnet.core.cluster.shared_values import AttachmentKey
from sandnet.core.cluster.view import Held
from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.runtime.context import Cluster
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.core.state.shared_writer import CLAIMED_ELSEWHERE
from sandnet.drivers.base import Driver, PeerAware
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Phase
from sandnet.model.peer import Peer
from sandnet.model.remote_attachment import RemoteAttachment

_log = logging.getLogger(__name__)


class AttachmentReplicas:
    """Keeps names, drivers and balancing up to date with other hosts' containers, and claims this host's own again."""

    def __init__(
        self,
        records: Records,
        cluster: Cluster,
        drivers: Mapping[str, Driver],
        locks: Locks,
        resolver_sync: ResolverSync,
        sandboxes: Sandboxes,
        backends: Backends,
    ) -> None:
        self._records = records
        _, self._view, self._membership, self._shared = cluster
        self._drivers, self._locks, self._resolver_sync = drivers, locks, resolver_sync
        self._sandboxes, self._backends = sandboxes, backends
        self._peers = Locks()
        self._known: set[str] = set()
        """Networks whose driver has got all peers since the start."""

    async def sync(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        """Bring the attachments to an endpoint into line; ``None``: it is not on this host."""
        known = [each.network_id for each in self._records.remote.of_endpoint(endpoint_id)]
        network_id = endpoint.network_id if endpoint else next(iter(known), "")
        network = self._records.network(network_id)
        if network and network.id not in self._known:
            await self.sync_network(network.id)
        await self._sync_remote(endpoint_id, network, endpoint)
        if self._membership.joined and self._membership.number:
            await self._sync_own(endpoint_id)
            if network and endpoint:
                await self._sync_holder(network, endpoint)

    # Those of other hosts.

    async def _sync_remote(self, endpoint_id: str, network: Network | None, endpoint: Endpoint | None) -> None:
        before = self._records.remote.of_endpoint(endpoint_id)
        after = self._remote(endpoint_id) if endpoint else []
        if list(before) == after:
            return
        self._records.remote.replace(endpoint_id, after)
        gone = [each for each in before if each not in after]
        new = [each for each in after if each not in before]
        await asyncio.gather(
            self._resolver_sync.remote_changed(gone, new), self._change_peers(network, endpoint, gone, new)
        )
        if network and endpoint:
            await self._backends.rebalance(network, endpoint)

    def _remote(self, endpoint_id: str) -> list[RemoteAttachment]:
        holder = self._view.holder(endpoint_id)
        held_by = holder.value.decode() if holder else ""
        counted = (held for held in self._view.counted(endpoint_id) if held.key.host != self._membership.name)
        return [self._remote_attachment(held, holds=str(held.key) == held_by) for held in counted]

    def _remote_attachment(self, held: Held, *, holds: bool) -> RemoteAttachment:
        host, attachment = self._view.host(held.key.host), held.attachment
        return RemoteAttachment(
            host=held.key.host,
            host_address=host.underlay if host else None,
            network_id=attachment.network_id,
            endpoint_id=attachment.endpoint_id,
            container_id=attachment.container_id,
            host_name=attachment.host_name,
            domain_name=attachment.domain_name,
            mac=attachment.mac,
            address=attachment.address,
            address_ipv6=attachment.address_ipv6,
            holder=holds,
            weight=attachment.weight,
            drained=attachment.drained,
            healthy=attachment.healthy,
        )

    async def sync_network(self, network_id: str, *, made: bool = False) -> None:
        """Give the driver of a network all its peers, once: entries of an earlier run are removed.

        Args:
            network_id: the network.
            made: whether the driver has just made it, and knows no peers of it.
        """
        async with self._peers.hold(network_id):
            if made:
                self._known.discard(network_id)
            network = self._records.network(network_id)
            driver = self._drivers.get(network.driver) if network else None
            if network is None:
                self._known.discard(network_id)
            elif isinstance(driver, PeerAware) and network_id not in self._known:
                await driver.set_peers(network, list(self._all_peers(network)))
                self._known.add(network_id)

    def _all_peers(self, network: Network) -> Iterator[Peer]:
        for endpoint_id in self._view.endpoint_ids(network.id):
            shared = self._view.endpoint(endpoint_id)
            peers = (peer_of(each, shared.endpoint if shared else None) for each in self._remote(endpoint_id))
            yield from (peer for peer in peers if peer)

    async def _change_peers(
        self,
        network: Network | None,
        endpoint: Endpoint | None,
        gone: Sequence[RemoteAttachment],
        new: Sequence[RemoteAttachment],
    ) -> None:
        driver = self._drivers.get(network.driver) if network else None
        if network is None or not isinstance(driver, PeerAware):
            return
        put = [peer for each in new if (peer := peer_of(each, endpoint))]
        async with self._peers.hold(network.id):
            self._known.discard(network.id)  # if this fails, the next attempt gives all peers
            await driver.change_peers(network, put, [each.mac for each in gone])
            self._known.add(network.id)

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
            if failure.kind is Kind.UNAVAILABLE or failure.code == CLAIMED_ELSEWHERE:
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
        """Take the endpoint's address over when the host is away that had it. One of several hosts does."""
        if not self._backends.ready(endpoint) or self._view.is_held(endpoint.id):
            return
        async with self._locks.hold(f"endpoint/{endpoint.id}"):
            for candidate in self._backends.ready(endpoint):
                if not self._view.is_held(endpoint.id) and await self._shared.attachments.claim_address(candidate):
                    await self._backends.take_over(network, endpoint, candidate)


def peer_of(attachment: RemoteAttachment, endpoint: Endpoint | None) -> Peer | None:
    """Return what a driver has to know of a container on another host; ``None``: it cannot be reached.

    Args:
        attachment: the container's attachment.
        endpoint: its endpoint, whose address the holder has, too.
    """
    if attachment.host_address is None or not attachment.mac:
        return None
    own = [attachment.address, attachment.address_ipv6]
    service = [endpoint.address, endpoint.address_ipv6] if endpoint else []
    shared = [interface.ip for interface in service if interface]
    addresses = dict.fromkeys(interface.ip for interface in own if interface)
    if attachment.holder:
        addresses.update(dict.fromkeys(shared))
    further = tuple(address for address in shared if address not in addresses)
    return Peer(attachment.mac, attachment.host_address, tuple(addresses), further)
