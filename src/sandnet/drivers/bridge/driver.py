"""The bridge driver: one Linux bridge per network, one veth pair per attachment, nftables for everything else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import Literal, TypeVar

from msgspec.structs import replace

from sandnet.drivers import readonly_sysctls
from sandnet.drivers.base import Recognised
from sandnet.drivers.bridge import diff
from sandnet.drivers.bridge.checks import check_link, check_link_unclaimed, check_subnet
from sandnet.drivers.bridge.network_record import network_from_alias
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.interface_setup import with_interface_options
from sandnet.drivers.traffic_shaping import port_limits
from sandnet.errors import Error, Kind, invalid
from sandnet.firewall.base import EndpointState, Fault, RunBetween, RunWith, Step
from sandnet.firewall.egress import refuse_egress
from sandnet.ipam.subnet_plan import SubnetIndex, addresses, plan_ipv4, plan_ipv6, refuse_overlap, subnet4
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.linux.sysctl import set_where_different
from sandnet.kernel.types import Bridge, InnerTap, Link, NamespaceState, Port, PortLimits, Veth
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Interface, Network, Phase
from sandnet.model.address import Address, Prefix
from sandnet.model.link_alias import AttachmentAlias, NetworkAlias, network_alias, read_alias
from sandnet.model.link_names import bridge_name, link_mac
from sandnet.model.tap import TAP_KIND, inner_tap_name

T = TypeVar("T")
_log = logging.getLogger(__name__)

AnyInterface = TypeVar("AnyInterface", IPv4Interface, IPv6Interface)
NEEDED = ("namespaces", "bridge", "veth", "nftables")
"""Kernel features without which there is no bridge network."""


class BridgeDriver:
    """Driver of networks on one host, each an Ethernet segment of its own behind NAT.

    Args:
        kernel: the host's kernel.
        workers: threads for its calls.
        reaper: deletes bridges.
        host_network: the state that all networks share on the host.
        pools: pools of IPv4 subnets for networks that request none.
        shared: its networks reach other hosts; another driver adds what is needed for that.
    """

    name = "bridge"
    scope: Literal["local", "global"] = "local"

    def __init__(
        self,
        kernel: Kernel,
        workers: Workers,
        reaper: LinkReaper,
        host_network: HostNetwork,
        pools: Sequence[IPv4Network],
        *,
        shared: bool = False,
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self._reaper = reaper
        self._host_network = host_network
        self._packet_filter = host_network.packet_filter
        self._pools = pools
        self._shared = shared
        self._subnets = SubnetIndex()
        self._missing = kernel.host.missing_features()

    def unavailable(self) -> str:
        """Return what the kernel lacks."""
        return "; ".join(self._missing[feature] for feature in NEEDED if feature in self._missing)

    def limits(self) -> str:
        """Return why no network can have IPv6 here."""
        return readonly_sysctls.without_ipv6(self._kernel.sysctl, self._missing.get("ipv6", ""))

    # Compare.

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return how bridges, their addresses and their parameters differ; see :class:`Driver`."""
        return await self._workers.run(self._faults, nets, host)

    def _faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        ipv6, sysctl = "ipv6" not in self._missing, self._kernel.sysctl
        found = [fault for net in nets for fault in diff.network_faults(net, host, sysctl, ipv6=ipv6)]
        links = self._kernel.links.list()  # ``host`` need not contain the ports of the bridges
        foreign = [net for net in nets if not self._packet_filter.knows_foreign_ports(net, links)]
        return found + [diff.foreign_ports(net) for net in foreign]

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return networks with a changed parameter; see :class:`Driver`."""
        return await self._workers.run(diff.changed, nets, self._kernel.sysctl, "ipv6" not in self._missing)

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return whether a bridge may differ from its network's record; see :class:`Driver`."""
        return diff.may_differ(net, port)

    def recognise(self, links: Sequence[Link]) -> Recognised:
        """Return bridges, host ends of veth pairs, and taps that have an alias of sandnet; see :class:`Recoverable`."""
        bridges, veths = [], []
        for link in sorted(links, key=lambda link: link.ifindex):
            alias = read_alias(link.alias)
            if isinstance(alias, NetworkAlias) and link.kind == "bridge":
                bridges.append((link, alias))
            elif isinstance(alias, AttachmentAlias) and link.kind == (TAP_KIND if alias.is_tap else "veth"):
                veths.append((link, alias))
        shared = {link.ifindex for link, alias in bridges if "v" in alias.values}
        return Recognised(
            [each for each in bridges if (each[0].ifindex in shared) is self._shared],
            [each for each in veths if (each[0].master in shared) is self._shared],
        )

    def network_of(self, link: Link, alias: NetworkAlias, sequence: int) -> Network | None:
        """Return the record of the network whose bridge is ``link``; see :class:`Recoverable`."""
        return network_from_alias(self.name, link, alias, sequence)

    # Networks.

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with its bridge and subnets chosen; see :class:`Driver`."""
        requested = net.options
        if requested.vni and not self._shared:
            raise invalid(f"network {net.name}: vni is for networks of driver overlay", code="overlay_option")
        if requested.encrypted and not self._shared:
            raise invalid(f"network {net.name}: encrypted is for networks of driver overlay", code="overlay_option")
        if net.leases_addresses:
            message = f"network {net.name}: no DHCP server is on its bridge"
            raise invalid(message, "leave ipam_driver out, or create a network of type macvlan", "no_dhcp_server")
        link = requested.bridge_name or bridge_name(net.id)
        check_link_unclaimed(link, others)
        await self._reaper.wait(link)
        own_links = {other.link for other in others} | {link}
        found, held, occupied = await self._workers.run(self._present, link, own_links)
        check_link(net, link, found)
        if requested.ipv6 and "ipv6" in self._missing:
            raise Error(Kind.UNAVAILABLE, f"no IPv6 on this host: {self._missing['ipv6']}", code="no_such_family")
        net = replace(net, link=link, link_adopted=found is not None)
        own = next((address for address in held if isinstance(address, IPv4Interface)), None)
        if own:
            check_subnet(net, own)
            refuse_overlap(net, own.network, others, occupied)
            ipv4 = subnet4(net, own.network, own)
        else:
            # from the end opposite to local networks: a host does not know the local networks of the others
            ipv4 = plan_ipv4(net, others, occupied, self._pools, self._subnets, highest=self._shared)
        net = replace(net, ipv4=ipv4, ipv6=plan_ipv6(net, others, occupied))
        if requested.egress_ipv4 or requested.egress_ipv6:
            await self._workers.run(refuse_egress, net, self._kernel.host)
        return replace(net, added=tuple(address for address in addresses(net) if found and address not in held))

    async def plan_update(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with its new range, and with a subnet of IPv6 if it is new; see :class:`Updatable`."""
        wanted = net.options.ip_range
        if net.ipv4:
            if wanted and not wanted.subnet_of(IPv4Network(net.ipv4.prefix)):
                raise invalid(f"ip_range {wanted} is outside subnet {net.ipv4.prefix}", code="range_outside_subnet")
            net = replace(net, ipv4=replace(net.ipv4, range=wanted))
        if not net.options.ipv6 or net.ipv6:
            return net
        if net.link_adopted:
            message = f"network {net.name}: IPv6 cannot be added to bridge {net.link}, which another program made"
            raise Error(Kind.CONFLICT, message, "create the network again with ipv6", "fixed_option")
        if "ipv6" in self._missing:
            raise Error(Kind.UNAVAILABLE, f"no IPv6 on this host: {self._missing['ipv6']}", code="no_such_family")
        own_links = {other.link for other in others} | {net.link}
        occupied = await self._workers.run(self._kernel.host.occupied, own_links)
        return replace(net, ipv6=plan_ipv6(net, others, occupied))

    def _present(
        self, link: str, own_links: Collection[str]
    ) -> tuple[Link | None, Sequence[Interface], Sequence[Prefix]]:
        """Return a link and its addresses, and what is occupied on all but sandnet's own links."""
        found = self._kernel.links.find(link)
        return found, self._kernel.links.addresses(link) if found else (), self._kernel.host.occupied(own_links)

    async def create_network(self, net: Network) -> Network:
        """Create or adopt the bridge, open the host to it, and add the network to the ruleset."""
        if net.link in self._reaper.owners:  # a network of several hosts comes back when another one uses it
            await self._reaper.wait(net.link)
        await self._host_network.enable_forwarding([net])
        guarded = net.options.anti_spoofing and net.options.firewall and not self._shared
        new = guarded and net.phase is not Phase.READY
        bridge = Bridge(net.link, net.mtu, addresses(net), alias=network_alias(net), new=new)
        steps = [partial(self._make, net, bridge)]
        if net.link_adopted:
            await self._workers.run(self._kernel.links.adopt_bridge, bridge)
            for name, value in diff.parameters(net, ipv6=True).items():
                await self._host_network.sysctls.ensure(name, value)
        elif net.phase is Phase.READY:
            await self._workers.run(*steps)
        if net.link_adopted or net.phase is Phase.READY:  # an existing bridge may have ports of other programs
            steps = []
            await self._packet_filter.update_foreign_ports(net, await self._workers.run(self._kernel.links.list))
        await self._packet_filter.prepare_network(net)
        done = False
        async with self._packet_filter.changing() as changes:
            change = changes.network_additions(net)
            await self._host_network.update_routing_rules(*steps, change.apply)
            done = True
        if not done:  # all rules were written again, with this network
            await self._host_network.update_routing_rules(*steps)
        return net

    async def delete_network(self, net: Network) -> None:
        """Remove the network from the ruleset, and delete the bridge if sandnet made it."""
        if not net.link:
            return
        own_addresses = net.added if net.link_adopted else addresses(net)
        clear = partial(self._kernel.links.remove_addresses, net.link, own_addresses)
        done = False
        async with self._packet_filter.changing() as changes:
            change = partial(changes.network_removals(net).apply, changes.foreign_port_removals(net))
            await self._host_network.update_routing_rules(change, clear)
            done = True
        if not done:  # all rules were written again, without this network
            await self._host_network.update_routing_rules(clear)
        await self._packet_filter.forget_network()
        if net.link_adopted:
            for name in diff.parameters(net, ipv6=True):
                await self._host_network.sysctls.restore(name)
            return
        if net.options.bridge_name:  # a later start would not recognize this name: delete it at once
            await self._workers.run(self._kernel.links.delete, [net.link])
        else:
            self._reaper.schedule_bridge(net.link)

    def _make(self, net: Network, bridge: Bridge) -> None:
        parameters = diff.parameters(net, ipv6="ipv6" not in self._missing)
        self._kernel.links.ensure_bridge(bridge._replace(parameters=tuple(parameters.items())))
        for name, value in parameters.items():
            set_where_different(self._kernel.sysctl, name, value)

    # Endpoints.

    def check_publishable(self, net: Network) -> None:
        """Refuse to publish ports of a network that is internal, or without rules.

        Raises:
            Error: ``INVALID``.
        """
        if net.options.internal:
            raise invalid(f"network {net.name} is internal: no port of it can be published", code="internal_network")
        if not net.options.firewall:
            message = f"network {net.name} was created without firewall rules (EnableIPTables false)"
            raise invalid(message, "publish on a network that has them", "no_firewall")

    async def publish(self, net: Network, ep: Endpoint) -> None:
        """Publish the endpoint's ports; see :class:`PortPublisher`."""
        await self._packet_filter.publish(ep)

    async def unpublish(self, net: Network, ep: Endpoint) -> None:
        """Withdraw the endpoint's ports; see :class:`PortPublisher`."""
        await self._packet_filter.unpublish(ep)

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread flows over backends; see :class:`LoadBalancing`."""
        await self._packet_filter.balance(ep, backends)

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Stop balancing the endpoint."""
        await self._packet_filter.balance(ep, ())

    # Sandboxes.

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set what the port may send before the port exists."""
        return await self._packet_filter.allow_port(net, ep, att, set_up)

    async def join_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], set_up: RunBetween[T]
    ) -> T:
        """Do as :meth:`join`, and spread flows over backends; see :class:`LoadBalancing`."""
        return await self._packet_filter.allow_backend(net, ep, att, backends, set_up)

    def port_limits(self, net: Network, ep: Endpoint) -> PortLimits:
        """Return the limits of an endpoint's ports; see :class:`TrafficShaping`."""
        return port_limits(net, ep)

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth:
        """Return a veth pair or a tap on the bridge; beside its own address it may have the endpoint's."""
        veth = Veth(
            host_link=att.host_link,
            master=net.link,
            interface=att.interface,
            mac=att.mac,
            mtu=net.mtu,
            address=att.address,
            address_ipv6=att.address_ipv6,
            additional_addresses=tuple(each.ip for each in att.additional_addresses),
            isolated=not net.options.icc,
            hairpin=bool(ep.ports),
            service=_shared(ep.address, att.address),
            service_ipv6=_shared(ep.address_ipv6, att.address_ipv6),
            holder=att.holder,
            bridge_addresses=_bridge_addresses(net, att),
            link_mac="" if net.link_adopted else link_mac(net.link),
            tap=att.tap,
            limits=self.port_limits(net, ep),
        )
        if att.tap and att.tap.inside:
            inner = InnerTap(inner_tap_name(att.interface), att.tap)
            veth = veth._replace(tap=None, inner_tap=inner, bridge_addresses=())
            return veth._replace(address=None, address_ipv6=None, additional_addresses=())
        return with_interface_options(veth, net, att)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Remove the anti-spoofing elements of their ports and the host's neighbour entries, once these are down."""
        await self._leave(net, gone, lambda _, step: tear_down(step), None)

    async def leave_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], tear_down: RunBetween[None]
    ) -> None:
        """Do as :meth:`leave`, and spread flows over the remaining backends; see :class:`LoadBalancing`."""
        await self._leave(net, [att], tear_down, EndpointState(ep, backends))

    async def _leave(
        self, net: Network, gone: Sequence[Attachment], tear_down: RunBetween[None], remaining: EndpointState | None
    ) -> None:
        addresses = [own.ip for each in gone for own in each.addresses]

        async def run(first: Step, last: Step) -> None:
            await tear_down(first, partial(self._forget, net, addresses, last))

        await self._packet_filter.remove_backends([attachment.host_link for attachment in gone], remaining, run)

    def _forget(self, net: Network, addresses: Sequence[Address], step: Step) -> None:
        try:
            self._kernel.links.forget_neighbours(net.link, addresses)
        except Error as failure:  # an entry of an absent neighbour fails, and is replaced with the address's next owner
            _log.warning("the host still has neighbour entries of network %s: %s", net.name, failure)
        step()


def _bridge_addresses(net: Network, att: Attachment) -> tuple[Address, ...]:
    """Return the bridge's addresses in the families that the attachment has."""
    families = ((net.ipv4, att.address), (net.ipv6, att.address_ipv6))
    return tuple(subnet.host_address.ip for subnet, own in families if own and subnet and subnet.host_address)


def _shared(address: AnyInterface | None, own: AnyInterface | None) -> AnyInterface | None:
    """Return the endpoint's address if it is not the interface's own."""
    return address if own and address != own else None
