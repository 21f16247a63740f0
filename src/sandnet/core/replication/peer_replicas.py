"""Give the drivers of networks their peers: what other hosts have attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sandnet.core.cluster.view import ClusterView, Held
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.records import Records
from sandnet.drivers.base import Driver, HostAware, PeerAware
from sandnet.model import Endpoint, Network, Peer
from sandnet.model.remote_attachment import RemoteAttachment
from sandnet.model.tunnel import TunnelHost, tunnel_address

_Peers = dict[str, Peer]
"""The peers of one endpoint, by MAC."""


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
        self._given: dict[str, dict[str, _Peers]] = {}
        """By network and endpoint; a network without an entry gets all its peers."""

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
            if network and isinstance(driver, PeerAware) and network_id not in self._given:
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
            given = self._given.get(network.id)
            if given is None:
                await self._give_all(network, driver)
                return
            before, after = given.get(endpoint_id, {}), _peers(network, attachments, endpoint)
            put = [peer for mac, peer in after.items() if before.get(mac) != peer]
            drop = [mac for mac in before if mac not in after]
            if put or drop:
                del self._given[network.id]  # if this fails, the next attempt gives all peers
                await driver.change_peers(network, put, drop)
                self._given[network.id] = given
            given[endpoint_id] = after
            if endpoint is None:
                del given[endpoint_id]

    def network_of(self, endpoint_id: str) -> str:
        """Return the network whose driver was given peers of an endpoint, perhaps before this host had a copy of it;
        empty: none was.
        """
        return next((network_id for network_id, given in self._given.items() if endpoint_id in given), "")

    async def _give_all(self, network: Network, driver: PeerAware) -> None:
        given: dict[str, _Peers] = {}
        for endpoint_id in self._view.endpoint_ids(network.id):
            shared = self._view.endpoint(endpoint_id)
            attachments = remote_attachments(self._view, self._host, endpoint_id)
            given[endpoint_id] = _peers(network, attachments, shared.endpoint if shared else None)
        await driver.set_peers(network, [peer for peers in given.values() for peer in peers.values()])
        self._given[network.id] = given


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
