"""Routing rules that give routes to sandnet's networks priority over others' rules (``netlink.policy_rules``)."""

from __future__ import annotations

import asyncio

from sandnet.firewall.base import StateOf
from sandnet.kernel.base import Host
from sandnet.kernel.types import BridgeRoute
from sandnet.kernel.workers import Workers
from sandnet.model import Phase

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
        self._state: StateOf = lambda _: []
        self._lock = asyncio.Lock()

    async def start(self, state: StateOf) -> None:
        """Ensure the priority from now on for the networks that ``state`` returns.

        Raises:
            Error: the kernel refuses.
        """
        self._state = state
        await self.ensure()

    async def is_ensured(self) -> bool:
        """Return whether no rule of another program has priority over ours.

        Raises:
            Error: the kernel does not return the rules.
        """
        async with self._lock:
            needed, allowed = self._routes(Phase.READY), self._routes(*Phase)
            return await self._workers.run(self._host.is_preferred, needed, allowed)

    async def ensure(self) -> None:
        """Ensure the priority for the networks that are ready or being created.

        Raises:
            Error: the kernel refuses.
        """
        async with self._lock:
            await self._workers.run(self._host.prefer, self._routes(Phase.CREATING, Phase.READY))

    async def remove(self) -> None:
        """Remove all of sandnet's rules.

        Raises:
            Error: the kernel refuses.
        """
        async with self._lock:
            await self._workers.run(self._host.prefer, ())

    def _routes(self, *phases: Phase) -> list[BridgeRoute]:
        nets = [each.network for each in self._state(phases) if each.network.link]
        subnets = [(net, subnet) for net in nets for subnet in (net.ipv4, net.ipv6) if subnet]
        return [BridgeRoute(sub.prefix, net.link, sub.bridge.ip if sub.bridge else None) for net, sub in subnets]
