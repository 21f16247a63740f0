"""What is programmed of services with several backends, and how it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from sandnet.drivers.base import NetworkState
from sandnet.drivers.bridge import balance
from sandnet.drivers.bridge.balance import Service
from sandnet.drivers.bridge.balance_rules import bridge_ruleset, no_bridge_table, router
from sandnet.errors import Error
from sandnet.kernel.base import Firewall
from sandnet.kernel.workers import Workers
from sandnet.model import Address, Attachment, Endpoint, Interface

_log = logging.getLogger(__name__)


class Balancing:
    """Remembers each balanced service as the kernel has it, so that a change touches only what differs.

    Callers take turns for one endpoint.
    """

    def __init__(self, firewall: Firewall, workers: Workers) -> None:
        self._firewall = firewall
        self._workers = workers
        self._programmed: dict[str, Service] = {}
        self._forgetting: set[asyncio.Task[None]] = set()

    async def start(self, table: str, state: Sequence[NetworkState]) -> None:
        """Put all services in place, in one transaction with the script ``table``. Learned flows stay.

        Where the bridge table is one that cannot be brought to its state (of another version), it is replaced.
        """
        endpoints = [each for network in state for each in network.endpoints]
        services = [Service(each.endpoint, tuple(each.backends)) for each in endpoints]
        self._programmed = {service.endpoint.id: service for service in services if balance.balanced(service)}
        script = await self._workers.run(self._script, table, state)
        try:
            await self._workers.run(self._firewall.apply, script)
        except Error:
            await self._workers.run(self._firewall.apply, no_bridge_table() + script)

    def programmed(self, endpoint: Endpoint) -> Collection[Interface]:
        """The own addresses of the backends that flows are translated to; none when nothing is balanced."""
        service = self._programmed.get(endpoint.id)
        return balance.own_addresses(service) if service else ()

    async def balance(self, endpoint: Endpoint, backends: Sequence[Attachment]) -> None:
        """Make the kernel's elements those of the service; forget flows translated to who is gone."""
        old = self._programmed.get(endpoint.id)
        new = Service(endpoint, tuple(backends))
        if old is None and not balance.balanced(new):
            return
        old = old or Service(endpoint, ())
        await self._workers.run(self._change, old, new)
        if balance.balanced(new):
            self._programmed[endpoint.id] = new
        else:
            self._programmed.pop(endpoint.id, None)
        gone = balance.own_addresses(old) - balance.own_addresses(new)
        if gone:
            self._forget_soon([address.ip for address in gone])

    def _forget_soon(self, addresses: Sequence[Address]) -> None:
        """Nothing new goes to who is gone already; walking the host's flows takes 10 to 30 ms: nobody waits for it."""
        task = asyncio.get_running_loop().create_task(self._forget(addresses))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, addresses: Sequence[Address]) -> None:
        try:
            await self._workers.run(self._firewall.forget_flows, addresses=addresses)
        except Error as failure:
            _log.warning("flows to %s are still tracked: %s", ", ".join(map(str, addresses)), failure)

    def _script(self, table: str, state: Sequence[NetworkState]) -> str:
        # the bridge table first: it stays where it is in the list of tables, the other one is made anew behind it
        routers = [line for each in state for line in router(each.network, add=True)]
        lines = [line for each in self._programmed.values() for line in balance.change({}, balance.elements(each))]
        return "\n".join((bridge_ruleset(), table, *routers, *lines)) + "\n"

    def _change(self, old: Service, new: Service) -> None:
        statements = list(balance.change(balance.elements(old), balance.elements(new)))
        if statements:
            self._firewall.apply("\n".join(statements) + "\n")
