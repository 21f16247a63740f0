"""Anti-spoofing of each port: the elements that the kernel has, and their changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from sandnet.firewall import antispoofing_rules
from sandnet.firewall.antispoofing_rules import PortElements
from sandnet.firewall.base import NetworkState
from sandnet.firewall.ruleset.elements import Difference, ElementMap, by_set, difference
from sandnet.firewall.ruleset.planned_change import NO_CHANGE, PlannedChange
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.types import PORTS, Link
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.link_names import OWN_LINK

_log = logging.getLogger(__name__)


class AntiSpoofing:
    """The kernel's anti-spoofing elements of each port.

    They are kept in memory, so a start and a join do not write them twice. Callers serialize their calls for one port.
    """

    def __init__(self, firewall: Firewall, workers: Workers, rules: RulesetTransaction) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rules = rules
        self._programmed: dict[str, PortElements] = {}
        self._foreign: dict[str, PortElements] = {}
        """By network: the ports that other programs added to its bridge, which may be sandnet's own or not."""

    def start(self, state: Sequence[NetworkState], links: Sequence[Link]) -> None:
        """Set the ports to those of ``state``; the caller applies :func:`antispoofing_rules.ruleset` and elements.

        Args:
            state: networks, with what is attached.
            links: the host's links.
        """
        self._programmed = {
            attachment.host_link: antispoofing_rules.elements(each.network, endpoint, attachment)
            for each in state
            for endpoint, backends in each.endpoints
            for attachment in backends
            if attachment.host_link  # those on other hosts have none
        }
        self._foreign = {each.network.id: self._foreign_ports_of(each.network, links) for each in state}

    def elements(self) -> ElementMap:
        """Return the elements that the kernel has."""
        ports = (*self._programmed.values(), *self._foreign.values())
        return by_set(element for own in ports for element in own.items())

    def knows_foreign_ports(self, net: Network, links: Sequence[Link]) -> bool:
        """Return whether the ports that other programs added to the network's bridge are known."""
        return self._foreign_ports_of(net, links) == self._foreign.get(net.id, {})

    def foreign_removals(self, net: Network) -> PlannedChange:
        """Plan the removal of the ports that other programs added to the network.

        Called within :meth:`RulesetTransaction.changing`.
        """
        old = self._foreign.pop(net.id, {})
        return PlannedChange(self._firewall, _change(old, {})) if old else NO_CHANGE

    async def update_foreign_ports(self, net: Network, links: Sequence[Link]) -> None:
        """Add ports that other programs made to the network: their clients may use its services, too."""
        async with self._rules.changing():
            old, new = self._foreign.pop(net.id, {}), self._foreign_ports_of(net, links)
            if new:
                self._foreign[net.id] = new
            if old != new:
                await self._workers.run(self._firewall.change, *_change(old, new))

    def _foreign_ports_of(self, net: Network, links: Sequence[Link]) -> PortElements:
        bridge = next((link.ifindex for link in links if link.name == net.link), 0)
        ports_of_bridge = (link for link in links if bridge and link.master == bridge and link.up)
        # A port of sandnet that another program renamed stays blocked until it is renamed back, as no rule covers its
        # name.
        ports = (link.name for link in ports_of_bridge if link.group != PORTS)
        # a port of sandnet without elements was left by a join that a crash interrupted, and is about to be removed
        unexpected = (port for port in ports if port not in self._programmed and not OWN_LINK.fullmatch(port))
        return _merged(antispoofing_rules.network_element(net, port) for port in unexpected)

    def allow_changes(self, net: Network, endpoint: Endpoint, attachment: Attachment) -> PlannedChange:
        """Plan what lets a port send from its own addresses only. Called within :meth:`RulesetTransaction.changing`.

        It is applied before the port exists, or when its backend becomes the holder.
        """
        port, new = attachment.host_link, antispoofing_rules.elements(net, endpoint, attachment)
        old = self._programmed.get(port, {})
        if new == old:
            return NO_CHANGE
        # Memory is updated first. The kernel may refuse because it lost the tables, and a rewrite uses memory.
        self._remember(port, new)
        return PlannedChange(self._firewall, _change(old, new), lambda: self._remember(port, old))

    def removal_changes(self, ports: Iterable[str]) -> PlannedChange:
        """Plan the removal of the elements of ports that are down. Called within :meth:`RulesetTransaction.changing`.

        Elements that stay when this fails name ports that never exist again; the next repair removes them.
        """
        former = {port: elements for port in ports if (elements := self._programmed.pop(port, None))}
        if not former:
            return NO_CHANGE
        removed = _change(_merged(former.values()), {})
        return PlannedChange(self._firewall, removed, lambda: self._programmed.update(former))

    def _remember(self, port: str, elements: PortElements) -> None:
        if elements:
            self._programmed[port] = elements
        else:
            self._programmed.pop(port, None)


def _change(old: PortElements, new: PortElements) -> Difference:
    return difference(by_set(old.items()), by_set(new.items()))


def _merged(all_: Iterable[PortElements]) -> PortElements:
    return {element: value for own in all_ for element, value in own.items()}
