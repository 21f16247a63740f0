"""What is programmed of services with several backends, and how it changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sandnet.errors import Error
from sandnet.firewall.balancing import hash_seeds, service_elements
from sandnet.firewall.balancing.service_elements import BalancedService
from sandnet.firewall.balancing.service_rules import bridge_ruleset, no_bridge_table, router
from sandnet.firewall.base import NetworkState
from sandnet.firewall.ruleset import elements
from sandnet.firewall.ruleset.conntrack_cleanup import ConntrackCleanup
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Interface


class LoadBalancer:
    """Remembers each balanced service as the kernel has it, so that a change touches only what differs.

    Callers take turns for one endpoint.
    """

    def __init__(self, firewall: Firewall, workers: Workers, rules: RulesetTransaction) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rules = rules
        self._programmed: dict[str, BalancedService] = {}
        self._former: dict[str, BalancedService] = {}
        """What the kernel has still where it refused a change: the next one starts from there."""
        self._forgetting = ConntrackCleanup(firewall, workers)
        self._secret = hash_seeds.drawn()

    async def start(self, table: str, state: Sequence[NetworkState]) -> None:
        """Put all services in place, in one transaction with the script ``table``. Learned flows stay.

        Where the bridge table is one that cannot be brought to its state (of another version), it is replaced.
        """
        endpoints = [each for network in state for each in network.endpoints]
        services = [BalancedService(each.endpoint, tuple(each.backends)) for each in endpoints]
        self._programmed = {service.endpoint.id: service for service in services if service_elements.balanced(service)}
        secret = hash_seeds.known(await self._workers.run(self._firewall.members, elements.BRIDGE, hash_seeds.PLACE))
        self._secret = secret or self._secret
        if not secret:  # a table of an earlier release, or none: nothing in it can be kept
            await self._workers.run(self._firewall.apply, no_bridge_table())
        await self.repair(table, state)

    async def repair(self, table: str, state: Sequence[NetworkState]) -> None:
        """The same for the services as they are programmed; nobody changes one meanwhile."""
        script = await self._workers.run(self.script, table, state, self.services())
        try:
            await self._workers.run(self._firewall.apply, script)
        except Error:
            await self._workers.run(self._firewall.apply, no_bridge_table() + script)
        self._former.clear()

    def services(self) -> Sequence[BalancedService]:
        """Those that are programmed."""
        return [*self._programmed.values()]

    def programmed(self, endpoint: Endpoint) -> Collection[Interface]:
        """The own addresses of the backends that flows are translated to; none when nothing is balanced."""
        service = self._programmed.get(endpoint.id)
        return service_elements.own_addresses(service) if service else ()

    async def complete(self, attachment: Attachment) -> None:
        """Wait until flows to an earlier bearer of its addresses are forgotten."""
        own = (attachment.address, attachment.address_ipv6)
        await self._forgetting.wait([address.ip for address in own if address])

    async def balance(self, endpoint: Endpoint, backends: Sequence[Attachment]) -> None:
        """Make the kernel's elements those of the service; forget flows translated to who is gone.

        What it should be is remembered even where the kernel refuses, as when others removed the tables: a repair goes
        by it, and must not bring back who is gone.
        """
        new = BalancedService(endpoint, tuple(backends))
        known = endpoint.id in self._programmed or endpoint.id in self._former
        if not known and not service_elements.balanced(new):
            return
        async with self._rules.changing():
            old = self._programmed.pop(endpoint.id, None) or BalancedService(endpoint, ())
            if service_elements.balanced(new):
                self._programmed[endpoint.id] = new
            former = self._former.pop(endpoint.id, old)
            try:
                await self._workers.run(self._change, former, new)
            except Error:
                self._former[endpoint.id] = former
                raise
            finally:
                gone = service_elements.own_addresses(old) - service_elements.own_addresses(new)
                self._forgetting.add(address.ip for address in gone)

    def script(self, table: str, state: Sequence[NetworkState], services: Sequence[BalancedService]) -> str:
        """All that puts both tables in place: ``table`` is the inet table's own part."""
        # the bridge table first: it stays where it is in the list of tables, the other one is made anew behind it
        routers = [line for each in state for line in router(each.network, add=True)]
        lines = [line for each in services for line in elements.diff_statements({}, service_elements.elements(each))]
        return hash_seeds.seeded("\n".join((bridge_ruleset(), table, *routers, *lines)) + "\n", self._secret)

    def _change(self, old: BalancedService, new: BalancedService) -> None:
        statements = list(elements.diff_statements(service_elements.elements(old), service_elements.elements(new)))
        if statements:
            self._firewall.apply("\n".join(statements) + "\n")
