"""The macvlan driver: each sandbox has an interface of its own on the Ethernet segment of one of the host's links.

The host forwards nothing and translates nothing, and has no port that it could filter: sandboxes are machines of that
segment. The interface is made on the host and then moved into the sandbox, as those of network plugins are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network
from typing import Final, Literal, TypeVar

from msgspec.structs import replace

from sandnet.drivers.base import Supply
from sandnet.drivers.dhcp_addresses import TIMEOUT, DhcpAddresses
from sandnet.errors import Error, Kind, invalid
from sandnet.firewall.base import Fault, RunWith, no_step
from sandnet.ipam.subnet_plan import SubnetIndex, plan_ipv4, plan_ipv6
from sandnet.kernel.base import Kernel
from sandnet.kernel.dhcp.base import DhcpClient
from sandnet.kernel.types import Macvlan, NamespaceState, Port
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Interface, Network, NetworkOptions, Sandbox, Subnet
from sandnet.model.interfaces.dhcp_lease import DhcpLease
from sandnet.model.link_names import MACVLAN_KIND, MACVLAN_MODES, moving_link_name
from sandnet.model.supplied_link import SuppliedLink

T = TypeVar("T")
_PREFIX: Final = "eth"
_FOREIGN: Final = ("bridge_name", "bridge_address", "internal", "host_access", "egress_ipv4", "egress_ipv6")
_NEEDS_BRIDGE: Final = (
    *_FOREIGN,
    *("routed_ipv4", "routed_ipv6", "ingress_rate", "egress_rate", "routes", "max_flows", "gateway_dns"),
)


class MacvlanDriver:
    """Driver of networks that are a link's own Ethernet segment.

    Args:
        kernel: the host's kernel.
        workers: threads for its calls.
        dhcp_timeout: seconds that a join waits for an address from the segment's server.
    """

    name = "macvlan"
    scope: Literal["local", "global"] = "local"

    def __init__(self, kernel: Kernel, workers: Workers, dhcp_timeout: float = TIMEOUT) -> None:
        self._kernel = kernel
        self._workers = workers
        self._subnets = SubnetIndex()
        self._addresses = DhcpAddresses(kernel.dhcp_clients, workers, dhcp_timeout)
        self._problem = kernel.supplied_links.stacking_problem(MACVLAN_KIND)

    def unavailable(self) -> str:
        """Return what the kernel lacks."""
        return self._problem

    def limits(self) -> str:
        """Return an empty text: its networks can have all that the driver has."""
        return ""

    # Networks.

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with its subnets; see :class:`Driver`.

        Raises:
            Error: ``INVALID`` without a parent or a subnet, or with options of bridges; ``NOT_FOUND`` no such parent;
                ``UNAVAILABLE`` there is no DHCP client for it.
        """
        options = net.options
        _check(net)
        if net.leases_addresses and (problem := self._addresses.problem()):
            raise Error(Kind.UNAVAILABLE, f"network {net.name}: {problem}", code="no_dhcp")
        await self._workers.run(self._check_parent, net)
        # what the host itself uses of the subnet is no obstacle: it is a machine of the segment, too
        ipv4 = None if net.leases_addresses else plan_ipv4(net, others, (), _NO_POOLS, self._subnets)
        ipv6 = plan_ipv6(net, others, ())
        own = await self._workers.run(self._kernel.links.addresses, options.parent or "")
        return replace(net, ipv4=ipv4 and _with_host(ipv4, own), ipv6=ipv6 and _with_host(ipv6, own))

    async def create_network(self, net: Network) -> Network:
        """Make sure that the parent is there: nothing else is made on the host."""
        await self._workers.run(self._check_parent, net)
        return net

    async def delete_network(self, net: Network) -> None:
        """Do nothing: nothing was made."""

    def _check_parent(self, net: Network) -> None:
        found = self._kernel.links.find(net.options.parent or "")
        if found is None:
            message = f"network {net.name}: there is no link {net.options.parent} on the host"
            raise Error(Kind.NOT_FOUND, message, "name a link of the host as parent", "parent_missing")
        if found.name == "lo" or found.master:
            message = f"network {net.name}: link {found.name} cannot be a parent: it is lo, or a port of another link"
            raise invalid(message, "name the bridge, or a link of its own", "parent_unfit")

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return networks whose parent is gone."""
        present = {link.name for link in await self._workers.run(self._kernel.links.list)}
        reason = "its sandboxes reach no one"
        return [
            Fault("network", net.id, f"parent {net.options.parent} is gone", reason)
            for net in nets
            if net.options.parent not in present
        ]

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return no networks: no parameter was set."""
        return []

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return false: the network has no link of its own."""
        return False

    # Endpoints and sandboxes.

    async def create_endpoint(self, net: Network, ep: Endpoint) -> Endpoint:
        """Return the endpoint as it is: its interface is made with the join."""
        return ep

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Delete an interface that is left on the host, and end a client that is left."""
        await self._addresses.stop([ep.id])
        await self._delete([ep.id])

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        """Return nothing: the interface has no end on the host."""

    async def supply_link(self, net: Network, ep: Endpoint, key: str, *, again: bool) -> Supply | None:
        """Make the interface on the host; see :class:`ExternalDriver`."""
        if again:  # a client of the interface that is gone receives nothing
            await self._addresses.stop([ep.id], release=False)
        name = moving_link_name(ep.id)
        mode = net.options.macvlan_mode or MACVLAN_MODES[0]
        wanted = Macvlan(name, net.options.parent or "", mode, ep.mac, net.mtu)
        await self._workers.run(self._kernel.supplied_links.make_macvlan, wanted)
        gateways = ep.gateway(net), ep.gateway(net, 6)
        return Supply(SuppliedLink(source=name, gateway=gateways[0], gateway_ipv6=gateways[1]), _PREFIX)  # type: ignore[arg-type]

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set up the sandbox with the interface."""
        return await set_up(no_step)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Return the addresses, tear down, which moves the interfaces back, and delete them."""
        endpoints = [attachment.endpoint_id for attachment in gone]
        failure: Error | None = None
        try:
            await self._addresses.stop(endpoints if net.leases_addresses else ())
        except Error as hanging:  # the rest is undone nevertheless
            failure = hanging
        await tear_down(no_step)
        await self._delete(endpoints)
        if failure:
            raise failure

    # Leases; see :class:`AddressLeasing`.

    async def obtain_lease(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> DhcpLease:
        """Have the segment's server give an address."""
        return await self._addresses.obtain(net, ep, att, sandbox)

    async def ensure_client(self, net: Network, ep: Endpoint, att: Attachment, sandbox: Sandbox) -> None:
        """Start the client again if it has ended."""
        await self._addresses.ensure(net, ep, att, sandbox)

    async def clients(self, endpoints: Collection[str]) -> Mapping[str, DhcpClient]:
        """Return the states of clients."""
        return await self._addresses.states(endpoints)

    async def stop_other_clients(self, endpoints: Collection[str]) -> None:
        """End the clients of all endpoints but these."""
        await self._addresses.stop_others(endpoints)

    async def _delete(self, endpoints: Sequence[str]) -> None:
        names = [moving_link_name(each) for each in endpoints]
        await self._workers.run(partial(self._kernel.links.delete, names))


def _with_host(subnet: Subnet, own: Sequence[Interface]) -> Subnet:
    """Return the subnet with the host's own address there, which no endpoint gets; ``None``: the host has none."""
    found = next((each for each in own if each.ip in subnet.prefix), None)
    return replace(subnet, host_address=found)


_NO_POOLS: Final[Sequence[IPv4Network]] = ()


def _check(net: Network) -> None:
    options = net.options
    if not options.parent:
        raise invalid(f"network {net.name}: a macvlan network needs a parent", "name a link of the host", "no_parent")
    if options.subnet is None and not net.leases_addresses:
        message = f"network {net.name}: a macvlan network needs the subnet of its segment"
        hint = "give subnet, and ip_range where other machines have addresses of it; or ipam_driver=dhcp"
        raise invalid(message, hint, "no_subnet")
    usual = NetworkOptions()
    given = [name for name in (*_NEEDS_BRIDGE, "icc") if getattr(options, name) != getattr(usual, name)]
    if given:
        message = f"network {net.name}: {', '.join(given)} cannot be had on a macvlan network"
        raise invalid(message, "leave it out, or create a network of type bridge", "not_on_macvlan")
