"""Give the drivers of networks their peers: what other hosts have attached."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from sandnet.core.cluster.view import ClusterView, Held
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.drivers.base import Driver, HostAware, PeerAware
from sandnet.model import Endpoint, Network, Peer, Phase
from sandnet.model.remote_attachment import RemoteAttachment
from sandnet.model.tunnel import TunnelHost, tunnel_address

_log = logging.getLogger(__name__)

SLICE: Final = 100
"""Endpoints that an audit looks at before it lets requests go on: a millisecond or two."""

_Peers = dict[str, Peer]
"""The peers of one endpoint, by MAC."""


class _GivenPeers:
    """What the driver of one network has, or may have while it is given.

    A MAC belongs to the address, so a new endpoint may have that of one that is deleted. Its peer is that of the
    endpoint that was given last.
    """

    def __init__(self) -> None:
        self.of_endpoints: dict[str, _Peers] = {}
        self._owners: dict[str, str] = {}
        """By MAC: the endpoint."""

    def replace(self, endpoint_id: str, after: _Peers) -> tuple[list[Peer], list[str]]:
        """Replace the peers of an endpoint; return those to put, and the MACs of those to drop."""
        before = self.of_endpoints.get(endpoint_id, {})
        put = [peer for mac, peer in after.items() if before.get(mac) != peer]
        drop = [mac for mac in before if mac not in after and self._owners.get(mac) == endpoint_id]
        self._owners.update((peer.mac, endpoint_id) for peer in put)
        for mac in drop:
            del self._owners[mac]
        self.of_endpoints[endpoint_id] = after
        return put, drop


class PeerReplicas:
    """What each driver was given of each network: all its peers at once, and then what changes.

    Args:
        records: of this host.
        view: what the shared store holds.
        host: this host's name.
        drivers: by name.
    """

    def __init__(self, records: Records, view: ClusterView, host: str, drivers: Mapping[str, Driver]) -> None:
        self._records, self._view, self._host, self._drivers = records, view, host, drivers
        self._locks = Locks()
        self._given: dict[str, _GivenPeers] = {}
        self._audited = ""
        """The network that was compared last."""
        self._uncertain: set[str] = set()
        """Networks of which the driver was not given all: they get all their peers again."""

    async def sync_hosts(self) -> None:
        """Give each driver the hosts that have published how they are reached; those that are away may come back.

        Raises:
            Error: the kernel refuses.
        """
        others = [host for host in self._view.hosts() if host.name != self._host]
        found = [TunnelHost(host.underlay, host.tunnel) for host in others if host.underlay and host.tunnel]
        for driver in self._drivers.values():
            if isinstance(driver, HostAware):
                await driver.set_hosts(found)

    async def sync_network(self, network_id: str, *, made: bool = False) -> None:
        """Give the driver of a network all its peers, once: entries of an earlier run are removed.

        Args:
            network_id: the network.
            made: whether the driver has just made it, and knows no peers of it.
        """
        async with self._locks.hold(network_id):
            network = self._records.network(network_id)
            driver = self._drivers.get(network.driver) if network else None
            if made or network is None:
                self._given.pop(network_id, None)
                self._uncertain.discard(network_id)
            if network and isinstance(driver, PeerAware) and self._known(network_id) is None:
                await self._give_all(network, driver)

    async def sync(
        self, network: Network, endpoint_id: str, endpoint: Endpoint | None, attachments: Iterable[RemoteAttachment]
    ) -> None:
        """Give the driver what has changed of an endpoint's attachments on other hosts.

        Args:
            network: the endpoint's.
            endpoint_id: its id.
            endpoint: the endpoint; ``None``: it is deleted.
            attachments: those that count.
        """
        driver = self._drivers[network.driver]
        if not isinstance(driver, PeerAware):
            return
        async with self._locks.hold(network.id):
            given = self._known(network.id)
            if given is None:
                await self._give_all(network, driver)
                return
            put, drop = given.replace(endpoint_id, _peers(network, attachments, endpoint))
            if put or drop:
                self._uncertain.add(network.id)  # if this fails, the next attempt gives all peers
                await driver.change_peers(network, put, drop)
                self._uncertain.discard(network.id)
            if endpoint is None:
                del given.of_endpoints[endpoint_id]

    def network_of(self, endpoint_id: str) -> str:
        """Return the network whose driver was given peers of an endpoint, or is being given them, perhaps before this
        host had a copy of it; empty: none was.
        """
        networks = (network_id for network_id, given in self._given.items() if endpoint_id in given.of_endpoints)
        return next(networks, "")

    async def audit(self) -> None:
        """Compare the peers that one driver has with the store, and give them all again if they differ.

        Each call compares the next network. So whatever goes wrong between the store and a driver does not stay, and an
        audit does not cost more the more networks there are.

        Raises:
            Error: the kernel refuses.
        """
        networks = sorted(self._given)
        if not networks:
            return
        self._audited = networks[bisect_right(networks, self._audited) % len(networks)]
        async with self._locks.hold(self._audited):
            network = self._records.network(self._audited)
            driver = self._drivers.get(network.driver) if network else None
            if network is None or network.phase is not Phase.READY or not isinstance(driver, PeerAware):
                return
            if self._known(network.id) is None:  # an attempt failed, and the endpoint that it was for is gone
                await self._give_all(network, driver)
                return
            wanted, revision = dict[str, Peer](), self._view.revision
            for number, (_, peers) in enumerate(self._wanted(network), 1):
                wanted.update(peers)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            is_same = await driver.has_peers(network, [*wanted.values()])
            # what came between the slices waits for the lock: a later audit compares it
            if not is_same and self._view.revision == revision:
                _log.warning("network %s: its peers are not those of the store: they are given again", network.name)
                await self._give_all(network, driver)

    def _wanted(self, network: Network) -> Iterator[tuple[str, _Peers]]:
        """Yield each endpoint of a network that counts, and its peers."""
        for endpoint_id in self._view.endpoint_ids(network.id):
            shared = self._view.endpoint(endpoint_id)
            if shared and self._view.counts_endpoint(shared):
                attachments = remote_attachments(self._view, self._host, endpoint_id)
                yield endpoint_id, _peers(network, attachments, shared.endpoint)

    async def _give_all(self, network: Network, driver: PeerAware) -> None:
        given, peers = _GivenPeers(), dict[str, Peer]()
        for endpoint_id, found in self._wanted(network):
            given.replace(endpoint_id, found)
            peers.update(found)
        self._given[network.id] = given  # before the driver has them: an endpoint may be deleted in between
        self._uncertain.add(network.id)
        await driver.set_peers(network, [*peers.values()])
        self._uncertain.discard(network.id)

    def _known(self, network_id: str) -> _GivenPeers | None:
        """Return what the driver of a network has; ``None``: that is not known."""
        return None if network_id in self._uncertain else self._given.get(network_id)


def remote_attachments(view: ClusterView, host: str, endpoint_id: str) -> list[RemoteAttachment]:
    """Return the attachments to an endpoint that count, without those of this host."""
    holder = view.holder(endpoint_id)
    held_by = holder.value.decode() if holder else ""
    counted = (held for held in view.counted(endpoint_id) if held.key.host != host)
    return [_remote_attachment(view, held, holds=str(held.key) == held_by) for held in counted]


def _remote_attachment(view: ClusterView, held: Held, *, holds: bool) -> RemoteAttachment:
    host, attachment = view.host(held.key.host), held.attachment
    return RemoteAttachment(
        host=held.key.host,
        host_address=host.underlay if host else None,
        tunnel_addresses=tuple(map(tunnel_address, host.tunnel.accepted_keys)) if host and host.tunnel else (),
        network_id=attachment.network_id,
        endpoint_id=attachment.endpoint_id,
        container_id=attachment.container_id,
        host_name=attachment.host_name,
        domain_name=attachment.domain_name,
        mac=attachment.mac,
        address=attachment.address,
        address_ipv6=attachment.address_ipv6,
        leased=attachment.leased,
        holder=holds,
        weight=attachment.weight,
        drained=attachment.drained,
        healthy=attachment.healthy,
    )


def _peers(network: Network, attachments: Iterable[RemoteAttachment], endpoint: Endpoint | None) -> _Peers:
    found = (_peer(network, attachment, endpoint) for attachment in attachments)
    return {peer.mac: peer for peer in found if peer}


def _peer(network: Network, attachment: RemoteAttachment, endpoint: Endpoint | None) -> Peer | None:
    """Return what a driver has to know of a container on another host; ``None``: it cannot be reached.

    Args:
        network: its network.
        attachment: the container's attachment.
        endpoint: its endpoint, whose address the holder has, too.
    """
    hosts = attachment.tunnel_addresses if network.options.encrypted else (attachment.host_address,)
    host_address, *further_hosts = hosts or (None,)
    if host_address is None or not attachment.mac:
        return None
    own = [attachment.address, attachment.address_ipv6]
    service = [endpoint.address, endpoint.address_ipv6] if endpoint else []
    shared = [interface.ip for interface in service if interface]
    addresses = dict.fromkeys(interface.ip for interface in own if interface)
    if attachment.holder:
        further_own = endpoint.additional_addresses if endpoint else ()
        addresses.update(dict.fromkeys((*shared, *(interface.ip for interface in further_own))))
    further = tuple(address for address in shared if address not in addresses)
    return Peer(attachment.mac, host_address, tuple(addresses), further, tuple(filter(None, further_hosts)))
