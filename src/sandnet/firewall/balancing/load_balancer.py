"""The services with several backends that the kernel balances, and their changes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from sandnet.errors import Error
from sandnet.firewall.balancing import hash_seeds, service_elements
from sandnet.firewall.balancing.service_elements import BalancedService
from sandnet.firewall.balancing.service_rules import bridge_ruleset
from sandnet.firewall.base import NetworkState
from sandnet.firewall.ruleset.conntrack_cleanup import ConntrackCleanup
from sandnet.firewall.ruleset.elements import BRIDGE, INET, ElementMap, by_set, difference, merge
from sandnet.firewall.ruleset.planned_change import NO_CHANGE, PlannedChange
from sandnet.firewall.ruleset.tables import no_table
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.types import Elements
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Interface

_log = logging.getLogger(__name__)

RECENT: Final = 16
"""Services whose elements are kept: about 60 KiB each."""


class LoadBalancer:
    """The balanced services as the kernel has them, kept in memory so that a change touches only what differs.

    Callers serialize their calls for one endpoint.
    """

    def __init__(self, firewall: Firewall, workers: Workers, rules: RulesetTransaction) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rules = rules
        self._programmed: dict[str, BalancedService] = {}
        self._refused: dict[str, BalancedService] = {}
        """The services that the kernel still has after it refused a change: the next change starts from there."""
        self._recent: dict[str, tuple[BalancedService, ElementMap]] = {}
        """The elements of the services that changed last, the latest last. They are not changed."""
        self._conntrack = ConntrackCleanup(firewall, workers)
        self._secret = hash_seeds.new_secret()

    async def load(self, state: Sequence[NetworkState]) -> None:
        """Take the services from the records, and the seeds of their hashes from the table that the kernel has.

        Args:
            state: the networks with what is attached.
        """
        endpoints = [each for network in state for each in network.endpoints]
        services = [BalancedService(each.endpoint, tuple(each.backends)) for each in endpoints]
        self._programmed = {service.endpoint.id: service for service in services if service_elements.balanced(service)}
        secret = hash_seeds.find_secret(await self._workers.run(self._firewall.members, BRIDGE, hash_seeds.SEED_SET))
        self._secret = secret or self._secret
        if not secret:  # a table of an earlier release, or none: nothing in it can be kept
            await self._workers.run(self._firewall.apply, no_table(BRIDGE))

    async def write(self, script: str, removals: str, tables: Elements) -> None:
        """Put both tables in place in one transaction. Learned flows stay. No change may run at the same time.

        Tables that cannot be changed into the desired ones (they are of another version) are replaced.

        Args:
            script: see :meth:`script`.
            removals: the statements that remove what the tables have and the script does not declare.
            tables: the elements of both, without those of services.
        """
        elements = await self._workers.run(self.elements, tables, self.services())
        try:
            await self._workers.run(self._firewall.apply, script + removals, elements)
        except Error as refused:
            _log.warning("both tables of the packet filter are replaced, as they cannot be changed: %s", refused)
            await self._workers.run(self._firewall.apply, no_table(BRIDGE) + no_table(INET) + script, elements)
        self._refused.clear()

    def services(self) -> Sequence[BalancedService]:
        """Return the balanced services."""
        return [*self._programmed.values()]

    def programmed(self, endpoint: Endpoint) -> Collection[Interface]:
        """Return the own addresses of the backends that flows are translated to; none if nothing is balanced."""
        service = self._programmed.get(endpoint.id)
        return service_elements.own_addresses(service) if service else ()

    async def complete(self, attachment: Attachment) -> None:
        """Wait until flows to an earlier owner of its addresses are forgotten."""
        own = (attachment.address, attachment.address_ipv6)
        await self._conntrack.wait([address.ip for address in own if address])

    def balance_changes(self, endpoint: Endpoint, backends: Sequence[Attachment]) -> PlannedChange:
        """Plan what makes the kernel's elements those of the service; flows to removed backends are forgotten then.

        Called within :meth:`RulesetTransaction.changing`. The desired state is kept in memory even if the kernel
        refuses, as when another program removed the tables: a repair uses it, and must not restore removed backends.
        """
        new = BalancedService(endpoint, tuple(backends))
        known = endpoint.id in self._programmed or endpoint.id in self._refused
        if not known and not service_elements.balanced(new):
            return NO_CHANGE
        old = self._programmed.pop(endpoint.id, None) or BalancedService(endpoint, ())
        if service_elements.balanced(new):
            self._programmed[endpoint.id] = new
        previous = self._refused.pop(endpoint.id, old)
        removed = service_elements.own_addresses(old) - service_elements.own_addresses(new)
        return PlannedChange(
            self._firewall,
            difference(self._elements_of(previous), self._elements_of(new)),
            undo=lambda: self._refused.update({endpoint.id: previous}),
            end=lambda: self._conntrack.add(address.ip for address in removed),
        )

    async def balance(self, endpoint: Endpoint, backends: Sequence[Attachment]) -> None:
        """Apply :meth:`balance_changes`."""
        async with self._rules.changing():
            change = self.balance_changes(endpoint, backends)
            if change is not NO_CHANGE:
                with change.pending():
                    await self._workers.run(change.apply)

    def script(self, tables: str) -> str:
        """Return the script that puts both tables in place without elements; ``tables`` is that of the other parts."""
        return hash_seeds.insert_seeds(f"{bridge_ruleset()}{tables}", self._secret)

    def elements(self, tables: Elements, services: Sequence[BalancedService]) -> ElementMap:
        """Return the elements of both tables; ``tables`` are those of the other parts."""
        found = {which: {**each} for which, each in tables.items()}
        merge(found, by_set([hash_seeds.element(self._secret)]))
        for service in services:
            merge(found, service_elements.elements(service))
        return found

    def _elements_of(self, service: BalancedService) -> ElementMap:
        """Return a service's elements, which are kept for its next change."""
        kept = self._recent.pop(service.endpoint.id, None)
        if kept is None or kept[0] != service:
            kept = service, service_elements.elements(service)
        self._recent[service.endpoint.id] = kept
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return kept[1]
