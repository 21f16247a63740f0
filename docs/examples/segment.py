"""A driver to begin with: a closed Ethernet segment. Sandboxes reach each other; nothing else reaches them.

One Linux bridge without an address for each network, one veth pair for each attachment. See docs/add-a-driver.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Literal, TypeVar

from msgspec.structs import replace

from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.interface_setup import with_interface_options
from sandnet.errors import invalid
from sandnet.firewall.base import Fault, RunWith
from sandnet.ipam.subnet_plan import plan_ipv4
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import Bridge, NamespaceState, Port, Veth
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.link_names import bridge_name

T = TypeVar("T")

NEEDED = ("namespaces", "bridge", "veth", "nftables")


class SegmentDriver:
    """Networks without a way out.

    Args:
        kernel: the host's.
        workers: threads for its calls.
        host_network: the packet filter, which all drivers share, and the host's parameters.
        pools: where subnets come from that the user leaves open.
    """

    name = "segment"
    scope: Literal["local", "global"] = "local"

    def __init__(
        self, kernel: Kernel, workers: Workers, host_network: HostNetwork, pools: Sequence[IPv4Network]
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self._packet_filter = host_network.packet_filter
        self._pools = pools

    def unavailable(self) -> str:
        """Return what the kernel lacks."""
        missing = self._kernel.host.missing_features()
        return "; ".join(missing[feature] for feature in NEEDED if feature in missing)

    def limits(self) -> str:
        """Return that there is no IPv6: keep the sample small."""
        return "no network can have IPv6: this driver does not plan it"

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with its link and its subnet chosen, and closed.

        Raises:
            Error: ``INVALID`` with IPv6.
        """
        if net.options.ipv6:
            raise invalid(f"network {net.name}: driver {self.name} has no IPv6", "leave ipv6 out, or use driver bridge")
        net = replace(net, link=bridge_name(net.id), options=replace(net.options, internal=True))
        occupied = await self._workers.run(self._kernel.host.occupied, {other.link for other in others} | {net.link})
        subnet = plan_ipv4(net, others, occupied, self._pools)
        return replace(net, ipv4=replace(subnet, host_address=None, gateway=None))

    async def create_network(self, net: Network) -> Network:
        """Make the bridge, and let the packet filter know the network."""
        await self._workers.run(self._kernel.links.ensure_bridge, Bridge(net.link, net.mtu, ()))
        await self._packet_filter.add_network(net)
        return net

    async def delete_network(self, net: Network) -> None:
        """Undo :meth:`create_network`."""
        if net.link:
            await self._packet_filter.remove_network(net)
            await self._workers.run(self._kernel.links.delete, [net.link])

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Do nothing: an endpoint without attachments is a record only."""

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> Veth:
        """Return a veth pair between the bridge and the sandbox, or a virtual machine's tap on the bridge."""
        veth = Veth(
            host_link=att.host_link,
            master=net.link,
            interface=att.interface,
            mac=att.mac,
            mtu=net.mtu,
            address=att.address,
            address_ipv6=None,
            isolated=not net.options.icc,
            hairpin=False,
            holder=att.holder,
            tap=att.tap,
        )
        return with_interface_options(veth, net, att)

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set what the port may send, then set up the sandbox with it."""
        return await self._packet_filter.allow_port(net, ep, att, set_up)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Set the ports down, then forget what they might send."""
        await self._packet_filter.remove_ports([attachment.host_link for attachment in gone], tear_down)

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return the networks whose bridge is missing or down."""
        wrong = [net for net in nets if net.link not in host.links or not host.links[net.link].link.up]
        reason = "its sandboxes do not reach each other"
        return [Fault("network", net.id, f"bridge {net.link} is missing or down", reason) for net in wrong]

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return nothing: no parameter was set."""
        return []

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return whether the bridge is down, or is no bridge any more."""
        return not port.link.up or port.link.kind != "bridge"
