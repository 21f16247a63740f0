"""The bridge driver: one Linux bridge a network, one veth pair an attachment, nftables for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from typing import Literal, TypeVar

from msgspec.structs import replace

from sandnet.drivers import readonly_sysctls
from sandnet.drivers.base import Gateways
from sandnet.drivers.bridge import diff
from sandnet.drivers.bridge.checks import check_link, check_link_unclaimed, check_subnet
from sandnet.drivers.forwarding import Forwarding
from sandnet.drivers.port_allocator import PortAllocator
from sandnet.drivers.router_advertisements import Advertisements
from sandnet.drivers.routing_rules import NO_WAY_IN, Precedence
from sandnet.drivers.sysctls import SysctlManager
from sandnet.errors import Error, Kind, invalid
from sandnet.firewall import inet_table
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing import service_rules
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.base import Fault, StateOf
from sandnet.firewall.egress import refuse_egress
from sandnet.firewall.flow_limits import usual_max_flows
from sandnet.firewall.masquerade_sources import RouteSources
from sandnet.firewall.published_ports import published
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.firewall.ruleset_reconciler import RulesetReconciler
from sandnet.ipam.subnet_plan import addresses, plan_ipv4, plan_ipv6, refuse_overlap, subnet4
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.linux.sysctl import set_where_different
from sandnet.kernel.types import Bridge, NamespaceState, Veth
from sandnet.kernel.workers import Workers
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Interface, Network, Phase, PortMapping
from sandnet.model.link_alias import network_alias
from sandnet.model.network import MAX_FLOWS
from sandnet.model.ports import TCP

AnyInterface = TypeVar("AnyInterface", IPv4Interface, IPv6Interface)
NEEDED = ("namespaces", "bridge", "veth", "nftables")
"""Kernel features without which there is no bridge network."""

NO_ROUTER = "the host does not take the default route that routers advertise, as it forwards IPv6"
NO_FORWARD = "sandboxes reach nothing beyond their own network"


class BridgeDriver:
    """Networks of one host, each an Ethernet segment of its own behind NAT."""

    name = "bridge"
    scope: Literal["local", "global"] = "local"

    def __init__(
        self,
        kernel: Kernel,
        workers: Workers,
        reaper: LinkReaper,
        tuning: SysctlManager,
        pools: Sequence[IPv4Network],
        *,
        forward_others: bool = False,
        max_flows: int = MAX_FLOWS,
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self._reaper = reaper
        self._tuning = tuning
        self._pools = pools
        self._ports = PortAllocator(kernel.host)
        self._rules = RulesetTransaction()
        self._balancing = LoadBalancer(kernel.firewall, workers, self._rules)
        self._guarding = AntiSpoofing(kernel.firewall, workers, self._rules)
        self._forwarding = Forwarding(tuning, kernel, workers, leave_open=forward_others)
        self._advertisements = Advertisements(tuning, kernel, workers)
        self._precedence = Precedence(kernel.host, workers)
        self._sources = RouteSources(kernel.host, workers, self._apply)
        self._opening = asyncio.Lock()
        """Nobody switches forwarding on before the table knows what it is not for."""
        self._max_flows = max_flows
        self._upkeep = RulesetReconciler(
            kernel.firewall, workers, self._balancing, self._guarding, self._rules, self._host
        )
        self._missing = kernel.host.missing_features()

    def unavailable(self) -> str:
        """What the kernel lacks."""
        return "; ".join(self._missing[feature] for feature in NEEDED if feature in self._missing)

    def limits(self) -> str:
        """Return why no network can have IPv6 here."""
        return readonly_sysctls.without_ipv6(self._kernel.sysctl, self._missing.get("ipv6", ""))

    async def unmet(self) -> list[Fault]:
        """Return the kernel parameters that are unfit and cannot be written."""
        return await self._workers.run(readonly_sysctls.unmet, self._kernel.sysctl)

    async def start(self, state: StateOf) -> None:
        """Put both tables in place in one transaction: established flows never notice."""
        lasting = state((Phase.READY,))
        nets = [each.network for each in lasting]
        await self._forwarding.start(nets)
        self._max_flows = await self._workers.run(usual_max_flows, self._kernel.sysctl, self._max_flows)
        await self._sources.start()
        await self._upkeep.start(state, await self._workers.run(self._kernel.links.list))
        await self._open_host(nets)
        await self._precedence.start(state)
        await self._forget_stale([end.endpoint for each in lasting for end in each.endpoints])

    async def stop(self) -> None:
        """No tables, and the host's parameters as they were."""
        self._sources.stop()
        await self._precedence.give_back()
        await self._tuning.restore()  # first: without the table a forwarding host would be open
        if not self.unavailable():
            script = inet_table.no_table() + service_rules.no_bridge_table()
            await self._workers.run(self._kernel.firewall.apply, script)

    # Upkeep.

    async def network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Bridges, their addresses and their parameters; see :class:`Driver`."""
        return await self._workers.run(self._network_faults, nets, host)

    def _network_faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        ipv6, sysctl = "ipv6" not in self._missing, self._kernel.sysctl
        found = [fault for net in nets for fault in diff.network_faults(net, host, sysctl, ipv6=ipv6)]
        links = self._kernel.links.list()  # ``host`` need not have the ports of the bridges
        strange = [net for net in nets if not self._guarding.knows_foreign_ports(net, links)]
        return found + [diff.foreign_ports(net) for net in strange]

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """See :class:`Driver`."""
        return await self._workers.run(diff.changed, nets, self._kernel.sysctl, "ipv6" not in self._missing)

    async def parameter_faults(self) -> list[Fault]:
        """Those of the whole host; routes that have changed are followed on the way, which is no repair."""
        await self._sources.follow()
        wrong = await self._tuning.changed()
        told = [(name, f"{name} has been changed") for name in wrong]
        told += [(name, f"{name} is 1") for name in await self._advertisements.changed() if name not in wrong]
        found = [Fault("parameter", name, problem, _reason(name)) for name, problem in told]
        if not await self._precedence.is_ensured():
            problem = "others' rules for routing come before the routes to our networks"
            found.append(Fault("parameter", "ip rule", problem, NO_WAY_IN))
        return found

    async def repair_parameters(self) -> None:
        """As before the first of them was changed.

        Raises:
            Error: ``CONFLICT`` a rule of others leaves no place for ours before it; or what the kernel refuses.
        """
        await self._tuning.reapply()
        await self._advertisements.maintain()
        await self._precedence.ensure()
        if not await self._precedence.is_ensured():
            problem = (
                "a rule for routing of others has the priority of the local table's: ours finds no place before it"
            )
            raise Error(Kind.CONFLICT, problem, "give theirs a priority of 2 to 32765 (ip rule)")

    async def rule_faults(self) -> list[Fault]:
        """Of both tables."""
        return [] if self.unavailable() else await self._upkeep.faults()

    async def repair_rules(self) -> None:
        """Replace both tables in one transaction."""
        await self._upkeep.repair()

    def take_repaired(self) -> list[Fault]:
        """What was missing when a change came that builds upon it."""
        return self._upkeep.take_repaired()

    async def published(self) -> Sequence[tuple[Address, BoundPort]]:
        """Those in the maps of the table; none where there is no table."""
        listing = await self._workers.run(self._kernel.firewall.listing, inet_table.TABLE)
        await self._forwarding.recall(listing)
        return published(listing)

    # Networks.

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Choose the bridge and the subnets; see :class:`Driver`."""
        asked = net.options
        link = asked.bridge_name or f"snb{net.id[:10]}"
        check_link_unclaimed(link, others)
        await self._reaper.wait(link)
        found = await self._workers.run(self._kernel.links.find, link)
        check_link(net, link, found)
        if asked.ipv6 and "ipv6" in self._missing:
            raise Error(Kind.UNAVAILABLE, f"no IPv6 on this host: {self._missing['ipv6']}", code="no_such_family")
        ours = {other.link for other in others} | {link}
        occupied = await self._workers.run(self._kernel.host.occupied, ours)
        net = replace(net, link=link, link_adopted=found is not None)
        held: Sequence[Interface] = await self._workers.run(self._kernel.links.addresses, link) if found else ()
        own = next((address for address in held if isinstance(address, IPv4Interface)), None)
        if own:
            check_subnet(net, own)
            refuse_overlap(net, own.network, others, occupied)
            ipv4 = subnet4(net, own.network, own)
        else:
            ipv4 = plan_ipv4(net, others, occupied, self._pools)
        net = replace(net, ipv4=ipv4, ipv6=plan_ipv6(net, others, occupied))
        await self._workers.run(refuse_egress, net, self._kernel.host)
        return replace(net, added=tuple(address for address in addresses(net) if found and address not in held))

    async def create_network(self, net: Network) -> Network:
        """Make or adopt the bridge, open the host to it, and make the ruleset know it."""
        await self._open_host([net])
        bridge = Bridge(net.link, net.mtu, addresses(net))
        if net.link_adopted:
            await self._workers.run(self._kernel.links.adopt_bridge, bridge)
            for name, value in diff.parameters(net, ipv6=True).items():
                await self._tuning.ensure(name, value)
        else:
            await self._workers.run(self._make, net, bridge._replace(alias=network_alias(net)))
        if net.link_adopted or net.phase is Phase.READY:  # a bridge that was there before may have ports of others
            await self._guarding.update_foreign_ports(net, await self._workers.run(self._kernel.links.list))
        await self._upkeep.limit(net)
        elements = inet_table.network_elements(net, self._max_flows, add=True)
        await self._apply([*elements, *service_rules.router(net, add=True)])
        await self._precedence.ensure()
        return net

    async def delete_network(self, net: Network) -> None:
        """Forget the network in the ruleset, and delete the bridge if we made it."""
        if not net.link:
            return
        elements = inet_table.network_elements(net, self._max_flows, add=False)
        await self._apply([*elements, *service_rules.router(net, add=False)])
        await self._upkeep.forget_limits()
        await self._precedence.ensure()
        await self._guarding.update_foreign_ports(net, [])
        ours = net.added if net.link_adopted else addresses(net)
        await self._workers.run(self._kernel.links.remove_addresses, net.link, ours)
        if net.link_adopted:
            for name in diff.parameters(net, ipv6=True):
                await self._tuning.restore(name)
            return
        if net.options.bridge_name:  # a name that a later start would not know as ours: it must be gone at once
            await self._workers.run(self._kernel.links.delete, [net.link])
        else:
            self._reaper.schedule_bridge(net.link)

    def _host(self) -> inet_table.HostState:
        return inet_table.HostState([*self._forwarding.elements(), *self._sources.elements()], self._max_flows)

    async def _open_host(self, nets: Sequence[Network]) -> None:
        """Forward packets for these networks, and for no others where none were forwarded before."""
        async with self._opening:
            await self._apply(inet_table.host_elements(await self._forwarding.decide(nets)))
            if nets:
                await self._tuning.ensure("net/ipv4/ip_forward", "1")
            if any(net.ipv6 for net in nets):
                await self._advertisements.switch_on()

    def _make(self, net: Network, bridge: Bridge) -> None:
        parameters = diff.parameters(net, ipv6="ipv6" not in self._missing)
        self._kernel.links.ensure_bridge(bridge._replace(parameters=tuple(parameters.items())))
        for name, value in parameters.items():
            set_where_different(self._kernel.sysctl, name, value)

    # Endpoints.

    async def create_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Publish its ports, and forget flows that an earlier holder of them left behind.

        Flows to who serves already stay (this is also a restart): without its entry, an answer under way is lost.
        """
        if not ep.ports:
            return
        await self._apply(inet_table.endpoint_elements(ep, add=True))
        await self._forget_stale([ep])

    async def _forget_stale(self, endpoints: Sequence[Endpoint]) -> None:
        stale = {(port.proto, port.host_port) for ep in endpoints for port in ep.ports if port.proto != TCP}
        if stale:
            own = (own for ep in endpoints for own in (ep.address, ep.address_ipv6, *self._balancing.programmed(ep)))
            live = [address.ip for address in own if address]
            await self._workers.run(self._kernel.firewall.forget_flows, bound=sorted(stale), live=live)

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Withdraw its ports, and forget the flows that went through them."""
        await self._balancing.balance(ep, ())
        if not ep.ports:
            return
        await self._apply(inet_table.endpoint_elements(ep, add=False))
        targets = [interface.ip for interface in (ep.address, ep.address_ipv6) if interface]
        await self._workers.run(self._kernel.firewall.forget_flows, addresses=targets)

    async def bind(self, net: Network, mappings: Sequence[PortMapping]) -> tuple[BoundPort, ...]:
        """Hold host ports; refuse where nothing could be published."""
        if not mappings:
            return ()
        if net.options.internal:
            raise invalid(f"network {net.name} is internal: no port of it can be published", code="internal_network")
        if not net.options.firewall:
            message = f"network {net.name} was created without firewall rules (EnableIPTables false)"
            raise invalid(message, "publish on a network that has them", "no_firewall")
        return await self._workers.run(self._ports.bind, net, mappings)

    async def rebind(self, net: Network, ports: Sequence[BoundPort]) -> None:
        """Hold them again."""
        if ports:
            await self._workers.run(self._ports.rebind, ports)

    def unbind(self, ports: Sequence[BoundPort]) -> None:
        """Give them back."""
        self._ports.unbind(ports)

    # Sandboxes.

    async def balance(self, net: Network, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Change what ``balance`` says of the endpoint; see :class:`Driver`."""
        await self._balancing.balance(ep, backends)

    async def join(self, net: Network, ep: Endpoint, att: Attachment) -> Veth:
        """Its addresses are free of flows to an earlier bearer, and what its port may send is settled before there is
        one."""
        await self._guarding.allow(net, ep, att)
        await self._balancing.complete(att)
        return self.link(net, ep, att)

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth:
        """A veth pair between the bridge and the sandbox; beside its own address it may hold the endpoint's."""
        return Veth(
            host_link=att.host_link,
            bridge=net.link,
            interface=att.interface,
            mac=att.mac,
            mtu=net.mtu,
            address=att.address,
            address_ipv6=att.address_ipv6,
            isolated=not net.options.icc,
            hairpin=bool(ep.ports),
            service=_shared(ep.address, att.address),
            service_ipv6=_shared(ep.address_ipv6, att.address_ipv6),
            holder=att.holder,
        )

    async def leave(self, net: Network, gone: Sequence[Attachment]) -> None:
        """Forget what their ports might send."""
        await self._guarding.remove([attachment.host_link for attachment in gone])

    def gateways(self, net: Network) -> Gateways:
        """The bridge's addresses, or the gateways asked for; none on an internal network."""
        ipv4 = net.ipv4.gateway if net.ipv4 else None
        ipv6 = net.ipv6.gateway if net.ipv6 else None
        return Gateways(
            ipv4 if isinstance(ipv4, IPv4Address) else None,
            ipv6 if isinstance(ipv6, IPv6Address) else None,
        )

    async def _apply(self, statements: Iterable[str]) -> None:
        script = "\n".join(statements)
        if script:
            async with self._rules.changing():
                await self._workers.run(self._kernel.firewall.apply, script + "\n")


def _reason(parameter: str) -> str:
    return NO_ROUTER if parameter.endswith("/accept_ra") else NO_FORWARD


def _shared(address: AnyInterface | None, own: AnyInterface | None) -> AnyInterface | None:
    """The endpoint's address where it is not the interface's own."""
    return address if own and address != own else None
