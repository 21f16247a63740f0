"""The overlay driver: what the bridge driver makes on each host, and a VXLAN port to the other hosts.

Nothing is flooded or learned: each attachment on another host is a *peer*, for which the kernel has entries. The driver
is given the peers; it does not find them. The gateway of a network has the same address and the same MAC on each host,
and its frames stay there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from sandnet.drivers.base import (
    Driver,
    LoadBalancing,
    PortPublisher,
    Recognised,
    Recoverable,
    TrafficShaping,
    Updatable,
)
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.overlay import port_diff
from sandnet.drivers.overlay.encryption import UNSPECIFIED, Encryption
from sandnet.drivers.overlay.peer_table import PeerTable
from sandnet.drivers.overlay.unsupported_options import refuse_options
from sandnet.drivers.overlay.vni import plan_vni
from sandnet.errors import Error, Kind, not_found
from sandnet.firewall.base import Fault, RunBetween, RunWith
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Link, NamespaceState, Port, PortLimits, Veth
from sandnet.kernel.vxlan.base import NO_ENTRIES, VXLAN_PORT, EntryChanges, PeerEntries, Underlay, VxlanPort, overhead
from sandnet.kernel.workers import Workers
from sandnet.model import Address, Attachment, Endpoint, Network, Peer, Phase
from sandnet.model.link_alias import NetworkAlias
from sandnet.model.link_names import vxlan_name
from sandnet.model.tunnel import HostTunnel, TunnelHost

T = TypeVar("T")
_log = logging.getLogger(__name__)

GRO_FLUSH_TIMEOUT: Final = 50_000
"""Nanoseconds: wireguard-go gives the kernel one packet at a time, and each would pass the bridge by itself."""
NO_SHARED_STORE: Final = "overlay networks need a store that the hosts share: --store etcd://HOST:2379/PREFIX"


class Segment(Driver, Updatable, PortPublisher, LoadBalancing, TrafficShaping, Recoverable, Protocol):
    """The driver of the part of a network that is on this host."""

    async def create_network(self, net: Network) -> Network:
        """Do as :meth:`Driver.create_network`."""
        ...


class OverlaySettings(NamedTuple):
    """What the operator chose."""

    underlay: Address | None = None
    """This host's address for the other hosts; ``None``: that of the default route."""
    port: int = VXLAN_PORT
    """UDP port of encapsulated packets, the same on all hosts."""
    unavailable: str = ""
    """Why there can be no networks over several hosts; empty: there can."""


class OverlayDriver:
    """Driver of networks over several hosts.

    Args:
        kernel: the host's kernel.
        workers: threads for its calls.
        host_network: the state that all networks share on the host.
        segment: makes the bridge and its ports.
        encryption: encrypts what encrypted networks send.
        settings: see :class:`OverlaySettings`.
    """

    name = "overlay"
    scope: Literal["local", "global"] = "global"

    def __init__(
        self,
        kernel: Kernel,
        workers: Workers,
        host_network: HostNetwork,
        segment: Segment,
        encryption: Encryption,
        settings: OverlaySettings,
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self._host_network, self._packet_filter = host_network, host_network.packet_filter
        self._segment = segment
        self._encryption = encryption
        self._settings = settings
        self._missing = kernel.host.missing_features().get("vxlan", "")
        self.smallest_path: Callable[[], int] = int
        """Returns the size of the largest packet that reaches each other host; 0: none is known."""
        self._own: Address | None = None
        """The underlay address, as it was found last."""
        self._tables: dict[str, PeerTable] = {}
        """By network; without those whose peers were not set since the start."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By network: changes of its peers, and its repair."""

    def unavailable(self) -> str:
        """Return what is missing: a shared store, or a feature of the kernel."""
        return self._settings.unavailable or "; ".join(filter(None, (self._segment.unavailable(), self._missing)))

    def limits(self) -> str:
        """Return why no network can have IPv6 here, and why none can be encrypted; empty: networks can."""
        return "; ".join(filter(None, (self._segment.limits(), self._encryption.lacking)))

    async def underlay(self) -> Underlay:
        """Return how this host reaches the others, as it is now.

        Raises:
            Error: ``UNAVAILABLE``, code ``no_underlay``.
        """
        found = await self._workers.run(self._kernel.vxlan.underlay, self._settings.underlay)
        self._own = found.address
        return found

    # Networks.

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with VNI, MTU, bridge and subnets chosen; see :class:`Driver`.

        It may be called again for the same request, with other networks beside it.
        """
        refuse_options(net)
        if net.options.encrypted:
            await self._workers.run(self._encryption.refuse_without, net.name)
        underlay = await self.underlay()
        planned = await self._segment.plan(net, others)
        outside = min(underlay.mtu, self.smallest_path() or underlay.mtu)
        mtu = 0 if net.options.mtu else outside - overhead(underlay.address.version, encrypted=net.options.encrypted)
        return replace(planned, vni=plan_vni(net, others), link_mtu=mtu)

    async def plan_update(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with what follows from its new options; see :class:`Updatable`."""
        return await self._segment.plan_update(net, others)

    async def create_network(self, net: Network) -> Network:
        """Make the bridge, and the VXLAN port once the packet filter checks what arrives by it."""
        async with self._locks[net.id]:
            underlay = await self.underlay()
            async with self._packet_filter.changing() as changes:
                await self._workers.run(changes.underlay_changes(underlay.address, self._settings.port).apply)
            made = await self._segment.create_network(net)
            if net.options.encrypted:  # its routes keep what the VXLAN link sends from leaving in clear
                await self._workers.run(self._encryption.refuse_without, net.name)
                await self._encryption.use(underlay)
            await self._workers.run(self._make_port, self._port(made, underlay), self._tables.get(net.id))
            return made

    async def delete_network(self, net: Network) -> None:
        """Delete the VXLAN port first, then the rest."""
        async with self._locks[net.id]:
            self._tables.pop(net.id, None)
            await self._workers.run(self._kernel.links.delete, [vxlan_name(net.id)])
            async with self._packet_filter.changing() as changes:
                await self._workers.run(changes.peer_removals(net).apply)
            await self._segment.delete_network(net)
            if net.options.encrypted:
                await self._encryption.release(lambda: self._needs_tunnel(net))
        self._locks.pop(net.id, None)

    def _needs_tunnel(self, gone: Network) -> bool:
        """Return whether a network besides this one needs the tunnel; the records know it after a restart, too."""
        nets = self._host_network.networks((Phase.CREATING, Phase.READY))
        return any(net.options.encrypted and net.id != gone.id for net in nets)

    def _port(self, net: Network, underlay: Underlay) -> VxlanPort:
        return VxlanPort(
            vxlan_name(net.id),
            net.link,
            net.vni,
            UNSPECIFIED if net.options.encrypted else underlay.address,
            self._settings.port,
            net.mtu,
            isolated=not net.options.icc,
            gro_flush_timeout=GRO_FLUSH_TIMEOUT if net.options.encrypted else 0,
        )

    def _make_port(self, port: VxlanPort, table: PeerTable | None) -> None:
        self._kernel.vxlan.ensure(port)
        if table is not None:
            found, wanted = self._kernel.vxlan.entries(port.name, port.bridge), table.entries()
            self._kernel.vxlan.change(port.name, port.bridge, found.without(wanted), wanted.without(found))

    # Peers.

    async def set_peers(self, net: Network, peers: Sequence[Peer]) -> list[Fault]:
        """Make the entries exactly those of these peers; see :class:`PeerAware`."""
        async with self._locks[net.id]:
            own = await self._reachable(net, peers)
            known, table = self._tables.get(net.id), PeerTable(net, own)
            self._tables[net.id] = table
            async with self._packet_filter.changing() as changes:
                await self._workers.run(changes.all_peer_changes(net, own).apply)
            return await self._workers.run(self._set_entries, net, known, table.entries())

    def _set_entries(self, net: Network, known: PeerTable | None, wanted: PeerEntries) -> list[Fault]:
        name = vxlan_name(net.id)
        if self._kernel.vxlan.find(name) is None:  # :meth:`create_network` adds them
            return []
        found = self._kernel.vxlan.entries(name, net.link)
        self._kernel.vxlan.change(name, net.link, found.without(wanted), wanted.without(found))
        return [*port_diff.entry_faults(net, found, known.entries())] if known else []

    async def change_peers(self, net: Network, put: Sequence[Peer], drop: Sequence[str]) -> None:
        """Change some peers; see :class:`PeerAware`."""
        async with self._locks[net.id]:
            await self._change_peers(net, await self._reachable(net, put), [*drop, *(peer.mac for peer in put)])

    async def has_peers(self, net: Network, peers: Sequence[Peer]) -> bool:
        """Return whether the peers of the network are these; see :class:`PeerAware`."""
        table = self._tables.get(net.id)
        return table is not None and table.holds(await self._reachable(net, peers))

    async def _change_peers(self, net: Network, put: Sequence[Peer], drop: Sequence[str]) -> None:
        if (table := self._tables.get(net.id)) is None:
            raise not_found("network", net.name)  # deleted while this waited
        await self._write_change(net, put, drop, *table.change(put, drop))

    async def _write_change(
        self, net: Network, put: Sequence[Peer], drop: Sequence[str], removed: PeerEntries, added: PeerEntries
    ) -> None:
        async with self._packet_filter.changing() as changes:
            await self._workers.run(changes.peer_changes(net, put, drop).apply)
        if removed.total or added.total:
            await self._workers.run(self._change_entries, net, removed, added)

    def _change_entries(self, net: Network, removed: PeerEntries, added: PeerEntries) -> None:
        try:
            self._kernel.vxlan.change(vxlan_name(net.id), net.link, removed, added)
        except Error as failure:
            if failure.kind is not Kind.NOT_FOUND:
                raise
            _log.warning("network %s: %s; it is made again with all entries", net.name, failure)

    async def _reachable(self, net: Network, peers: Sequence[Peer]) -> list[Peer]:
        """Return the peers that are on other hosts, with underlay addresses of this host's family."""
        if not peers or net.options.encrypted:  # addresses of the tunnel are those of other hosts, and of one family
            return [*peers]
        underlay = self._own or (await self.underlay()).address
        others = [peer for peer in peers if peer.host_address != underlay]
        found = [peer for peer in others if peer.host_address.version == underlay.version]
        for host in sorted({str(peer.host_address) for peer in others if peer not in found}):
            _log.warning("network %s: host %s is not reached: this host's underlay is %s", net.name, host, underlay)
        return found

    # Hosts.

    async def announce(self, published: HostTunnel | None) -> HostTunnel | None:
        """Return how other hosts reach the encrypted networks of this one; see :class:`HostAware`."""
        return await self._encryption.announce(published)

    def refuse_impossible(self, net: Network) -> None:
        """Refuse an encrypted network on a host without WireGuard; see :class:`HostAware`."""
        if net.options.encrypted:
            self._encryption.refuse_without(net.name)

    async def set_hosts(self, hosts: Sequence[TunnelHost]) -> None:
        """Set the keys of the other hosts; see :class:`HostAware`."""
        await self._encryption.set_hosts(hosts)

    # Compare.

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return how bridges, VXLAN ports and entries differ; see :class:`Driver`."""
        found = await self._segment.faults(nets, host)
        try:
            underlay = await self.underlay()
        except Error as failure:
            return found + [Fault("network", net.id, failure.message, port_diff.ALONE) for net in nets]
        encrypted = [net.id for net in nets if net.options.encrypted]
        if encrypted:
            problems = await self._encryption.differences(underlay)
            found += [Fault("network", each, text, port_diff.ALONE) for each in encrypted for text in problems]
        for net in nets:
            table = self._tables.get(net.id)
            wanted = None if table is None else table.entries()
            found += await self._workers.run(self._faults, net, self._port(net, underlay), wanted)
        return found

    def _faults(self, net: Network, wanted: VxlanPort, entries: PeerEntries | None) -> list[Fault]:
        found = [*port_diff.port_faults(net, self._kernel.vxlan.find(wanted.name), wanted)]
        if entries is not None:
            found += port_diff.entry_faults(net, self._kernel.vxlan.entries(wanted.name, net.link), entries)
        return found

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return networks with a changed parameter or entry; see :class:`Driver`."""
        changes = await self._workers.run(self._kernel.vxlan.changed)
        entries = [net.id for net in nets if self._entries_differ(net, changes)]
        encrypted = [net.id for net in nets if net.options.encrypted]
        tunnel = encrypted if encrypted and not await self._encryption.works() else []
        return [*dict.fromkeys([*await self._segment.changed_networks(nets), *entries, *tunnel])]

    def _entries_differ(self, net: Network, changes: EntryChanges) -> bool:
        table = self._tables.get(net.id)
        return table is not None and (changes.missed or table.differs(changes, vxlan_name(net.id), net.link))

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return whether a network's bridge or VXLAN port may differ from its record; see :class:`Driver`."""
        if port.link.name == vxlan_name(net.id):
            return port_diff.may_differ(net, port)
        return self._segment.may_differ(net, port)

    def recognise(self, links: Sequence[Link]) -> Recognised:
        """Return the bridges of networks over several hosts, and their ports; see :class:`Recoverable`."""
        return self._segment.recognise(links)

    def network_of(self, link: Link, alias: NetworkAlias, sequence: int) -> Network | None:
        """Return the record of the network whose bridge is ``link``; see :class:`Recoverable`."""
        net = self._segment.network_of(link, alias, sequence)
        vni = alias.values.get("v", "")
        if net is None or not vni.isdecimal():
            return None
        return replace(net, driver=self.name, vni=int(vni), link_mtu=0 if net.options.mtu else link.mtu)

    # Endpoints and sandboxes.

    def check_publishable(self, net: Network) -> None:
        """Refuse to publish ports of an internal network; see :class:`PortPublisher`."""
        self._segment.check_publishable(net)

    async def publish(self, net: Network, ep: Endpoint) -> None:
        """Publish the endpoint's ports on this host; see :class:`PortPublisher`."""
        await self._segment.publish(net, ep)

    async def unpublish(self, net: Network, ep: Endpoint) -> None:
        """Withdraw the endpoint's ports; see :class:`PortPublisher`."""
        await self._segment.unpublish(net, ep)

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread flows of this host over backends on any host; see :class:`LoadBalancing`."""
        await self._segment.balance(net, ep, backends)

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Stop balancing the endpoint."""
        await self._segment.delete_endpoint(net, ep)

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set what the port may send; a peer with its MAC is hidden while it is here."""
        await self._hide_peer(net, att)
        return await self._segment.join(net, ep, att, set_up)

    async def join_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], set_up: RunBetween[T]
    ) -> T:
        """Do as :meth:`join`, and spread flows over backends; see :class:`LoadBalancing`."""
        await self._hide_peer(net, att)
        return await self._segment.join_backend(net, ep, att, backends, set_up)

    async def _hide_peer(self, net: Network, att: Attachment) -> None:
        """Hide the peer with the attachment's MAC: its former host's record is not changed yet, or it moves away."""
        if att.mac in self._tables.get(net.id, ()):
            async with self._locks[net.id]:
                if (table := self._tables.get(net.id)) is not None:  # it may be deleted by now
                    await self._write_change(net, (), [att.mac], *table.hide(att.mac))

    def port_limits(self, net: Network, ep: Endpoint) -> PortLimits:
        """Return the limits of an endpoint's ports; see :class:`TrafficShaping`."""
        return self._segment.port_limits(net, ep)

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth | None:
        """Return a veth pair or a tap on the bridge."""
        return self._segment.link(net, ep, att)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Remove what their ports have."""
        await self._segment.leave(net, gone, tear_down)
        await self._reveal_peers(net, gone)

    async def leave_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], tear_down: RunBetween[None]
    ) -> None:
        """Do as :meth:`leave`, and spread flows over the remaining backends; see :class:`LoadBalancing`."""
        await self._segment.leave_backend(net, ep, att, backends, tear_down)
        await self._reveal_peers(net, [att])

    async def _reveal_peers(self, net: Network, gone: Sequence[Attachment]) -> None:
        """Add the entries of peers that the attachments hid, and neighbours whose entries a leave deleted."""
        if net.id not in self._tables:
            return
        async with self._locks[net.id]:
            table = self._tables.get(net.id, PeerTable(net))  # the network may be deleted by now
            if hidden := table.hidden(each.mac for each in gone):
                await self._change_peers(net, hidden, ())
            entries = table.neighbours(own.ip for each in gone for own in each.addresses)
            if entries.total:
                await self._workers.run(self._change_entries, net, NO_ENTRIES, entries)
