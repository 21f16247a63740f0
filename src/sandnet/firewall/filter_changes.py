"""Changes of networks, ports and services that a caller plans on the event loop and applies in a job of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager

from sandnet.firewall import inet_table, overlay_rules
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.balancing.service_rules import router
from sandnet.firewall.overlay_peers import OverlayPeers
from sandnet.firewall.ruleset.elements import Difference, ElementMap, by_set
from sandnet.firewall.ruleset.planned_change import PlannedChange
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.model import Address, Attachment, Endpoint, Network, Peer


class FilterChanges:
    """The changes of one block. Planning is fast, does no I/O, and happens on the event loop.

    Callers serialize what they plan for one port and for one endpoint.
    """

    def __init__(
        self,
        firewall: Firewall,
        antispoofing: AntiSpoofing,
        balancer: LoadBalancer,
        peers: OverlayPeers,
        max_flows: int,
        block: ExitStack,
    ) -> None:
        self._firewall = firewall
        self._max_flows = max_flows
        self._antispoofing = antispoofing
        self._balancer = balancer
        self._peers = peers
        self._block = block

    def network_additions(self, net: Network) -> PlannedChange:
        """Plan what translates, isolates and counts what the network sends."""
        return self._planned(PlannedChange(self._firewall, Difference({}, network_elements(net, self._max_flows))))

    def network_removals(self, net: Network) -> PlannedChange:
        """Plan what undoes :meth:`network_additions`; what is absent is no error."""
        elements = network_elements(net, self._max_flows)
        return self._planned(PlannedChange(self._firewall, Difference(elements, {}), absent=True))

    def foreign_port_removals(self, net: Network) -> PlannedChange:
        """Plan the removal of the ports that other programs added to the network's bridge."""
        return self._planned(self._antispoofing.foreign_removals(net))

    def port_changes(self, net: Network, ep: Endpoint, att: Attachment) -> PlannedChange:
        """Plan what lets the attachment's port send from its own addresses only; applied before the port exists."""
        return self._planned(self._antispoofing.allow_changes(net, ep, att))

    def port_removals(self, host_links: Sequence[str]) -> PlannedChange:
        """Plan the removal of the anti-spoofing elements of these ports; applied once they are down."""
        return self._planned(self._antispoofing.removal_changes(host_links))

    def balance_changes(self, ep: Endpoint, backends: Sequence[Attachment]) -> PlannedChange:
        """Plan the spread of new flows over these backends (:meth:`PacketFilter.balance`)."""
        return self._planned(self._balancer.balance_changes(ep, backends))

    def underlay_changes(self, underlay: Address, port: int) -> PlannedChange:
        """Plan what keeps others from sending as this host, and from reaching networks of several hosts unchecked."""
        return self._planned(self._peers.host_changes(underlay, port))

    def peer_changes(self, net: Network, put: Sequence[Peer], drop: Collection[str]) -> PlannedChange:
        """Plan what lets these peers send and others no longer, which are given by their MACs."""
        return self._planned(self._peers.peer_changes(net, put, drop))

    def all_peer_changes(self, net: Network, peers: Sequence[Peer]) -> PlannedChange:
        """Plan what lets exactly these peers send."""
        return self._planned(self._peers.all_changes(net, peers))

    def peer_removals(self, net: Network) -> PlannedChange:
        """Plan the removal of all peers of a network."""
        return self._planned(self._peers.removals(net))

    def _planned(self, change: PlannedChange) -> PlannedChange:
        self._block.enter_context(change.pending())
        return change


def network_elements(net: Network, max_flows: int) -> ElementMap:
    """Return a network's elements in both tables."""
    return by_set([*inet_table.network_elements(net, max_flows), *router(net), *overlay_rules.network_elements(net)])


@asynccontextmanager
async def planning(
    firewall: Firewall,
    rules: RulesetTransaction,
    antispoofing: AntiSpoofing,
    balancer: LoadBalancer,
    peers: OverlayPeers,
    max_flows: int,
) -> AsyncIterator[FilterChanges]:
    """Yield the changes of a block, which runs concurrently with others and not during a rewrite."""
    async with rules.changing():
        with ExitStack() as block:
            yield FilterChanges(firewall, antispoofing, balancer, peers, max_flows, block)
