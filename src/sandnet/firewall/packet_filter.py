"""The packet filter of the host, as drivers and the core use it: two nftables tables, for the networks of all drivers.

Table ``inet sandnet`` translates addresses, publishes ports and isolates networks. Table ``bridge sandnet`` contains
anti-spoofing and load balancing. Every operation is idempotent: it makes the kernel's state that of its record. If
another process removed what a change depends on, both tables are made again, with the change in them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from sandnet.errors import Error
from sandnet.firewall import inet_table
from sandnet.firewall.antispoofing import AntiSpoofing
from sandnet.firewall.balancing.load_balancer import LoadBalancer
from sandnet.firewall.base import EndpointState, Fault, RunBetween, RunWith, StateOf, no_step
from sandnet.firewall.filter_changes import FilterChanges, planning
from sandnet.firewall.flow_limits import usual_max_flows
from sandnet.firewall.inet_table import HostState
from sandnet.firewall.masquerade_sources import RouteSources
from sandnet.firewall.overlay_peers import OverlayPeers
from sandnet.firewall.published_ports import published
from sandnet.firewall.ruleset.elements import BRIDGE, INET, Element, by_set
from sandnet.firewall.ruleset.planned_change import NO_CHANGE, AttemptedChange
from sandnet.firewall.ruleset.tables import no_table
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.firewall.ruleset_reconciler import RulesetReconciler
from sandnet.kernel.base import RULES_MISSING, Kernel
from sandnet.kernel.types import Link, Listing, Value
from sandnet.kernel.workers import Workers
from sandnet.model import Address, Attachment, BoundPort, Endpoint, Network, Phase
from sandnet.model.network import MAX_FLOWS
from sandnet.model.ports import TCP

T = TypeVar("T")

_log = logging.getLogger(__name__)

HostElements = Sequence[tuple[Element, Value]]
"""Elements that belong to no network."""


def _nothing() -> HostElements:
    return ()


class PacketFilter:
    """Both tables.

    Args:
        kernel: writes and reads nftables, and reads links, routes and parameters.
        workers: threads for its calls.
        host_elements: returns the elements of no network that other classes keep in the tables' sets.
        max_flows: tracked connections that a sandbox may have where its network sets no limit; 0: no limit.
    """

    def __init__(
        self,
        kernel: Kernel,
        workers: Workers,
        host_elements: Callable[[], HostElements] = _nothing,
        max_flows: int = MAX_FLOWS,
    ) -> None:
        self._kernel = kernel
        self._workers = workers
        self._host_elements = host_elements
        self._max_flows = max_flows
        self._transaction = RulesetTransaction()
        self._balancer = LoadBalancer(kernel.firewall, workers, self._transaction)
        self._antispoofing = AntiSpoofing(kernel.firewall, workers, self._transaction)
        self._peers = OverlayPeers(kernel.firewall)
        self._sources = RouteSources(kernel.host, workers, self._change)
        self._reconciler = RulesetReconciler(
            kernel.firewall, workers, self._balancer, self._antispoofing, self._peers, self._transaction, self._host
        )
        self._reason = kernel.host.missing_features().get("nftables", "")

    def unavailable(self) -> str:
        """Return why the host has no packet filter, as text; empty: it has one."""
        return self._reason

    async def start(self, state: StateOf) -> None:
        """Put both tables in place in one transaction; established flows continue.

        Args:
            state: returns the networks of all drivers that have links, in given phases.

        Raises:
            Error: ``UNAVAILABLE`` the kernel refuses.
        """
        self._max_flows = await self._workers.run(usual_max_flows, self._kernel.sysctl, self._max_flows)
        await self._sources.start()
        await self._reconciler.start(state, await self._workers.run(self._kernel.links.list))

    async def stop(self) -> None:
        """Delete both tables."""
        self._sources.stop()
        if not self._reason:
            script = no_table(INET) + no_table(BRIDGE)
            await self._workers.run(self._kernel.firewall.apply, script)

    # Compare and repair.

    async def faults(self) -> list[Fault]:
        """Return how both tables differ from their desired content; :meth:`repair` removes the differences."""
        return [] if self._reason else await self._reconciler.faults()

    async def repair(self) -> None:
        """Replace both tables in one transaction. Known flows stay."""
        await self._reconciler.repair()

    def take_repaired(self) -> list[Fault]:
        """Return the faults that changes met and repaired since the last call."""
        return self._reconciler.take_repaired()

    async def follow_routes(self) -> None:
        """Update the source addresses of masqueraded traffic from the host's routes; cheap if none has changed."""
        await self._sources.follow()

    async def listing(self) -> Listing | None:
        """Return table ``inet sandnet`` as the kernel has it, before :meth:`start`; ``None``: there is none."""
        return await self._workers.run(self._kernel.firewall.listing, inet_table.TABLE)

    @staticmethod
    def published_ports(listing: Listing | None) -> Sequence[tuple[Address, BoundPort]]:
        """Return the ports of the host that a table publishes, each with the address it leads to."""
        return published(listing)

    # Networks.

    async def add_host_elements(self, elements: HostElements) -> None:
        """Add elements that belong to no network."""
        await self._change([], elements)

    async def add_network(self, net: Network) -> None:
        """Translate, isolate and count what the network sends."""
        await self.prepare_network(net)
        async with self.changing() as changes:
            await self._workers.run(changes.network_additions(net).apply)

    async def remove_network(self, net: Network) -> None:
        """Undo :meth:`add_network`."""
        async with self.changing() as changes:
            await self._workers.run(changes.network_removals(net).apply)
        await self.forget_network()

    async def prepare_network(self, net: Network) -> None:
        """Add the chains that count flows as this network requests, if there are none; before its elements."""
        await self._reconciler.limit(net)

    async def forget_network(self) -> None:
        """Remove chains that no network needs any more."""
        await self._reconciler.forget_limits()

    def knows_foreign_ports(self, net: Network, links: Sequence[Link]) -> bool:
        """Return whether the ports that other programs added to the network's bridge are known."""
        return self._antispoofing.knows_foreign_ports(net, links)

    async def update_foreign_ports(self, net: Network, links: Sequence[Link]) -> None:
        """Learn the ports that other programs added to the network's bridge; without links: forget them."""
        await self._antispoofing.update_foreign_ports(net, links)

    # Endpoints.

    async def publish(self, ep: Endpoint) -> None:
        """Publish the endpoint's ports, and forget tracked flows that an earlier holder of them left behind.

        Flows to current backends stay, because this also runs at a restart: without its conntrack entry, an answer
        under way is lost.
        """
        if ep.is_published:
            await self._change([], inet_table.endpoint_elements(ep))
            await self.forget_stale([ep])

    async def unpublish(self, ep: Endpoint) -> None:
        """Withdraw the endpoint's ports, and forget the flows that went through them."""
        if ep.is_published:
            await self._change(inet_table.endpoint_elements(ep), [])
            targets = [interface.ip for interface in (ep.address, ep.address_ipv6) if interface]
            await self._workers.run(self._kernel.firewall.forget_flows, addresses=targets)

    async def forget_stale(self, endpoints: Collection[Endpoint]) -> None:
        """Forget tracked flows to the endpoints' published ports whose destination is not one of these endpoints."""
        stale = {(port.proto, port.host_port) for ep in endpoints for port in ep.ports if port.proto != TCP}
        if stale:
            own = (own for ep in endpoints for own in (ep.address, ep.address_ipv6, *self._balancer.programmed(ep)))
            live = [address.ip for address in own if address]
            await self._workers.run(self._kernel.firewall.forget_flows, bound=sorted(stale), live=live)

    async def balance(self, ep: Endpoint, backends: Sequence[Attachment]) -> None:
        """Spread new flows to the endpoint's address over these backends by their weights.

        Established flows stay where they are, except those of a backend that is no longer among ``backends``. With one
        backend or none nothing is balanced. Drained and unhealthy ones take no new flows, unless there are no others.
        """
        await self._balancer.balance(ep, backends)

    # Ports of bridges.

    def changing(self) -> AbstractAsyncContextManager[FilterChanges]:
        """Return the block in which a caller plans changes and applies them in a job of its own.

        If the kernel has lost the tables, ``apply`` raises in the job, and everything is written again, with the
        changes in it, at the end of the block. The block does not raise then: the caller repeats the rest of its job.

        Raises:
            Error: as the block itself; ``UNAVAILABLE`` with code ``RULES_MISSING`` the tables cannot be rewritten.
        """
        firewall = self._kernel.firewall
        parts = (self._antispoofing, self._balancer, self._peers)
        return planning(firewall, self._transaction, *parts, self._max_flows)

    async def allow_port(self, net: Network, ep: Endpoint, att: Attachment, set_up: RunWith[T]) -> T:
        """Let the attachment's port send from its own addresses only, in the job that then makes the port.

        By then no flow to an earlier holder of its addresses is tracked. If all rules had to be written again,
        ``set_up`` runs a second time, without a step.
        """
        return await self.allow_backend(net, ep, att, (), lambda step, _: set_up(step))

    async def allow_backend(
        self, net: Network, ep: Endpoint, att: Attachment, backends: Sequence[Attachment], set_up: RunBetween[T]
    ) -> T:
        """Do as :meth:`allow_port`, and end the job with :meth:`balance` over these backends, if there are any."""
        await self._balancer.complete(att)
        results: list[T] = []
        async with self.changing() as changes:
            port = changes.port_changes(net, ep, att)
            spread = changes.balance_changes(ep, backends) if backends else NO_CHANGE
            results.append(await set_up(port.apply, spread.apply))
        return results[0] if results else await set_up(no_step, no_step)

    async def remove_ports(self, host_links: Sequence[str], tear_down: RunWith[None]) -> None:
        """Remove the anti-spoofing elements of these ports, at the end of the job that sets them down.

        Elements that stay when the kernel refuses name ports that never exist again; the next repair removes them.
        """
        await self.remove_backends(host_links, None, lambda _, step: tear_down(step))

    async def remove_backends(
        self, host_links: Sequence[str], remaining: EndpointState | None, tear_down: RunBetween[None]
    ) -> None:
        """Do as :meth:`remove_ports`, and begin the job with :meth:`balance` over the remaining backends.

        If the kernel refuses that, the job goes on. The next change of the service starts from what the kernel has.
        """
        try:
            async with self.changing() as changes:
                spread = AttemptedChange(changes.balance_changes(*remaining) if remaining else NO_CHANGE)
                removal = changes.port_removals(host_links)
                await tear_down(spread.attempt, partial(spread.then, removal.try_apply))
        except Error as failure:
            if failure.code != RULES_MISSING:
                raise
            _log.warning("the packet filter still has elements of removed ports: %s", failure)

    def _host(self) -> HostState:
        return HostState([*self._host_elements(), *self._sources.elements()], self._max_flows)

    async def _change(self, removed: Iterable[tuple[Element, Value]], added: Iterable[tuple[Element, Value]]) -> None:
        """Remove elements, which may be absent, and add others, in one transaction."""
        old, new = by_set(removed), by_set(added)
        if old or new:
            async with self._transaction.changing():
                await self._workers.run(self._kernel.firewall.change, old, new, absent=True)


def published_endpoints(state: StateOf) -> list[Endpoint]:
    """Return the endpoints that are ready, of all networks."""
    return [each.endpoint for network in state((Phase.READY,)) for each in network.endpoints]
