"""The remote driver: a network plugin makes the networks, the endpoints and the links; the daemon moves the links.

What the plugin is asked for is recorded before it is asked. Its answers are input from outside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from sandnet.drivers.base import PLUGIN_AWAY, PLUGIN_REFUSED, Supply
from sandnet.drivers.remote.answers import endpoint_with, supply
from sandnet.drivers.remote.plugin_client import PluginClient
from sandnet.errors import Error
from sandnet.firewall.base import Fault, RunWith, no_step
from sandnet.ipam.subnet_plan import SubnetIndex, plan_ipv4, plan_ipv6
from sandnet.kernel.base import Kernel
from sandnet.kernel.types import NamespaceState, Port
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network, Phase, Subnet
from sandnet.wire import plugin as wire
from sandnet.wire.plugin_answers import EndpointAnswer, JoinReply, Nothing

T = TypeVar("T")
_log = logging.getLogger(__name__)

_SPACE: Final = "sandnet"
"""Name of the address space in requests: the subnets are chosen by the daemon."""
_GENERIC: Final = "com.docker.network.generic"
_IPV6: Final = "com.docker.network.enable_ipv6"
_INTERNAL: Final = "com.docker.network.internal"
_EXPOSED: Final = "com.docker.network.endpoint.exposedports"


class PluginDriver:
    """Networks of one plugin.

    Args:
        plugin: the plugin; the driver has its name.
        kernel: the host's kernel.
        workers: threads for its calls.
        pools: pools of IPv4 subnets for networks that request none.
        index: the subnets of all networks, in order.
    """

    scope: Literal["local", "global"] = "local"

    def __init__(
        self, plugin: PluginClient, kernel: Kernel, workers: Workers, pools: Sequence[IPv4Network], index: SubnetIndex
    ) -> None:
        self.name = plugin.name
        self._plugin = plugin
        self._kernel = kernel
        self._workers = workers
        self._pools = pools
        self._subnets = index

    def unavailable(self) -> str:
        """Return why there is no usable plugin of that name."""
        return self._plugin.problem()

    def limits(self) -> str:
        """Return an empty text: what a network can have is the plugin's matter."""
        return ""

    # Networks.

    async def plan(self, net: Network, others: Sequence[Network]) -> Network:
        """Return the network with its subnets chosen; the plugin is not asked yet."""
        own_links = {other.link for other in others if other.link}
        occupied = await self._workers.run(self._kernel.host.occupied, own_links)
        ipv4 = plan_ipv4(net, others, occupied, self._pools, self._subnets)
        ipv6 = plan_ipv6(net, others, occupied)
        return replace(net, ipv4=replace(ipv4, host_address=None), ipv6=ipv6 and replace(ipv6, host_address=None))

    async def create_network(self, net: Network) -> Network:
        """Ask the plugin to make the network; one that is ready stays as it is: plugins keep theirs.

        Plugins of 2015 choose the addresses, so the network has no subnet then.
        """
        if net.phase is Phase.READY:
            return net
        legacy = await self._plugin.is_legacy()
        given = msgspec.json.decode(net.options.plugin_options or "{}", type=dict[str, Any])
        if legacy:
            message = wire.CreateNetwork2015(network_id=net.id, options=given or None)
            await self._plugin.ask("CreateNetwork", message, Nothing)
            return replace(net, ipv4=None, ipv6=None)
        options = {_GENERIC: {}, _IPV6: net.ipv6 is not None, **given}
        options |= {_INTERNAL: True} if net.options.internal else {}
        request = wire.CreateNetwork(
            network_id=net.id, options=options, ipv4=_ipam_data(net.ipv4), ipv6=_ipam_data(net.ipv6)
        )
        await self._plugin.ask("CreateNetwork", request, Nothing)
        return net

    async def delete_network(self, net: Network) -> None:
        """Ask the plugin to delete the network."""
        await self._plugin.ask("DeleteNetwork", wire.NetworkReference(network_id=net.id), Nothing)

    async def faults(self, nets: Sequence[Network], host: NamespaceState) -> list[Fault]:
        """Return no faults: what a network is on the host is the plugin's matter."""
        return []

    async def changed_networks(self, nets: Sequence[Network]) -> list[str]:
        """Return no networks: no parameter was set."""
        return []

    def may_differ(self, net: Network, port: Port) -> bool:
        """Return false: the network has no link that the daemon knows."""
        return False

    # Endpoints.

    async def create_endpoint(self, net: Network, ep: Endpoint) -> Endpoint:
        """Ask the plugin to make the endpoint; see :class:`ExternalDriver`."""
        exposed = [{"Proto": each.proto, "Port": each.port} for each in ep.exposed_ports]
        options = {_EXPOSED: exposed} if exposed else {}
        legacy = await self._plugin.is_legacy()
        message = wire.CreateEndpoint2015 if legacy else wire.CreateEndpoint
        given = wire.EndpointInterface(
            address=str(ep.address) if ep.address else None,
            address_ipv6=str(ep.address_ipv6) if ep.address_ipv6 else None,
            mac=ep.mac or None,
        )
        more: dict[str, Any] = {} if legacy else {"interface": given}
        request = message(network_id=net.id, endpoint_id=ep.id, options=options, **more)
        answer = await self._plugin.ask("CreateEndpoint", request, EndpointAnswer)
        return self._read("CreateEndpoint", lambda: endpoint_with(ep, answer))

    async def delete_endpoint(self, net: Network, ep: Endpoint) -> None:
        """Ask the plugin to delete the endpoint."""
        await self._plugin.ask("DeleteEndpoint", wire.EndpointReference(network_id=net.id, endpoint_id=ep.id), Nothing)

    # Sandboxes.

    def link(self, net: Network, ep: Endpoint, att: Attachment) -> None:
        """Return nothing: the plugin makes the link."""

    async def supply_link(self, net: Network, ep: Endpoint, key: str, *, again: bool) -> Supply | None:
        """Ask the plugin to join the endpoint; see :class:`ExternalDriver`.

        Where it has joined it before, it is asked to leave first.
        """
        if again:
            await self._leave(net.id, ep.id)
        request = wire.JoinEndpoint(network_id=net.id, endpoint_id=ep.id, sandbox_key=key)
        answer = await self._plugin.ask("Join", request, JoinReply)
        return self._read("Join", lambda: supply(answer))

    async def join(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Set up the sandbox with the link that was supplied."""
        return await set_up(no_step)

    async def leave(self, net: Network, gone: Sequence[Attachment], tear_down: RunWith[None]) -> None:
        """Tear down, with the link moved back, and then have the plugin leave.

        The sandbox's end does not wait for a plugin that refuses or is away: the deletion of the endpoint follows.
        """
        await tear_down(no_step)
        for attachment in gone:
            await self._leave(net.id, attachment.endpoint_id)

    async def _leave(self, network_id: str, endpoint_id: str) -> None:
        try:
            message = wire.EndpointReference(network_id=network_id, endpoint_id=endpoint_id)
            await self._plugin.ask("Leave", message, Nothing)
        except Error as failure:
            if failure.code not in (PLUGIN_AWAY, PLUGIN_REFUSED):
                _log.warning("endpoint %s: %s", endpoint_id[:12], failure)
            else:
                _log.info("endpoint %s: %s", endpoint_id[:12], failure)

    def _read(self, verb: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except ValueError as failure:
            raise self._plugin.refusal(verb, f"its answer cannot be carried out: {failure}") from failure


def _ipam_data(subnet: Subnet | None) -> tuple[wire.IpamData, ...]:
    if subnet is None:
        return ()
    gateway = f"{subnet.gateway}/{subnet.prefix.prefixlen}" if subnet.gateway else None
    return (wire.IpamData(space=_SPACE, pool=str(subnet.prefix), gateway=gateway),)
