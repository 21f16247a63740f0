"""Routing rules that give routes to sandnet's networks priority over others' rules (``netlink.policy_rules``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from sandnet.kernel.base import Host
from sandnet.kernel.types import BridgeRoute
from sandnet.kernel.workers import Workers
from sandnet.model import Network, Phase

NetworksOf = Callable[[Collection[Phase]], list[Network]]
"""Function that returns the networks in one of these phases that have a link on the host, as they are now."""

NO_WAY_IN = "what goes to its sandboxes takes another way: published ports do not answer"


class RoutingRules:
    """The priority of the routes to sandnet's bridges.

    Args:
        host: the host.
        workers: threads for its calls.
    """

    def __init__(self, host: Host, workers: Workers) -> None:
        self._host = host
        self._workers = workers
        self._networks: NetworksOf = lambda _: []
        self._known: dict[str, tuple[Network, list[BridgeRoute]]] = {}
        """By id: a network's record and its routes. Each second and each change of a network asks for all of them."""
        self._lock = asyncio.Lock()

    async def start(self, networks: NetworksOf) -> None:
        """Ensure the priority from now on for the networks that ``networks`` returns.

        Raises:
            Error: the kernel refuses.
        """
        self._networks = networks
        await self.ensure()

    async def is_ensured(self) -> bool:
        """Return whether no rule of another program has priority over ours.

        Raises:
            Error: the kernel does not return the rules.
        """
        async with self._lock:
            needed, allowed = self._routes(Phase.READY), self._routes(*Phase)
            return await self._workers.run(self._host.is_preferred, needed, allowed)

    async def ensure(self, *first: Callable[[], None]) -> None:
        """Ensure the priority for the networks that are ready or being created.

        Args:
            first: what else to do in the kernel, before it and in the same job.

        Raises:
            Error: the kernel refuses.
        """
        async with self._lock:
            await self._workers.run(self._ensure, self._routes(Phase.CREATING, Phase.READY), first)

    async def remove(self) -> None:
        """Remove all of sandnet's rules.

        Raises:
            Error: the kernel refuses.
        """
        async with self._lock:
            await self._workers.run(self._host.prefer, ())

    def _ensure(self, routes: Sequence[BridgeRoute], first: Sequence[Callable[[], None]]) -> None:
        for job in first:
            job()
        self._host.prefer(routes)

    def _routes(self, *phases: Phase) -> list[BridgeRoute]:
        nets = self._networks(phases)
        if len(self._known) > 2 * len(nets) + 10:  # most of them were deleted
            self._known.clear()
        return [route for net in nets for route in self._routes_of(net)]

    def _routes_of(self, net: Network) -> list[BridgeRoute]:
        known, routes = self._known.get(net.id, (None, []))
        if known is not net:
            subnets = [subnet for subnet in (net.ipv4, net.ipv6) if subnet]
            routes = [
                BridgeRoute(sub.prefix, net.link, sub.host_address.ip if sub.host_address else None) for sub in subnets
            ]
            self._known[net.id] = net, routes
        return routes
