"""What is programmed of each port's guard, and how it changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from sandnet.errors import Error
from sandnet.firewall import antispoofing_rules
from sandnet.firewall.antispoofing_rules import Own
from sandnet.firewall.base import NetworkState
from sandnet.firewall.ruleset.transaction import RulesetTransaction
from sandnet.kernel.base import Firewall
from sandnet.kernel.types import PORTS, Link
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network
from sandnet.model.link_names import OWN_LINK

_log = logging.getLogger(__name__)


class AntiSpoofing:
    """Remembers what each port may send as the kernel has it, so that a start and a join do not say it twice.

    Callers take turns for one port.
    """

    def __init__(self, firewall: Firewall, workers: Workers, rules: RulesetTransaction) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rules = rules
        self._programmed: dict[str, Own] = {}
        self._foreign: dict[str, Own] = {}
        """By network: the ports of its bridge that others made, on a bridge of theirs or of ours."""

    def start(self, state: Sequence[NetworkState], links: Sequence[Link]) -> None:
        """Take these for the ports there are; whoever calls has :func:`guard.ruleset` of them run.

        Args:
            state: networks, with what is attached.
            links: those of the host.
        """
        self._programmed = {
            attachment.host_link: antispoofing_rules.elements(each.network, endpoint, attachment)
            for each in state
            for endpoint, backends in each.endpoints
            for attachment in backends
        }
        self._foreign = {each.network.id: self._foreign_ports_of(each.network, links) for each in state}

    def ports(self) -> Sequence[Own]:
        """What is programmed."""
        return [*self._programmed.values(), *self._foreign.values()]

    def knows_foreign_ports(self, net: Network, links: Sequence[Link]) -> bool:
        """Whether the ports that others made on the network's bridge are known."""
        return self._foreign_ports_of(net, links) == self._foreign.get(net.id, {})

    async def update_foreign_ports(self, net: Network, links: Sequence[Link]) -> None:
        """Take ports that others made for ports of the network: their clients reach its services, too."""
        async with self._rules.changing():
            old, new = self._foreign.pop(net.id, {}), self._foreign_ports_of(net, links)
            if new:
                self._foreign[net.id] = new
            if old != new:
                await self._workers.run(self._firewall.change, antispoofing_rules.diff(old, new))

    def _foreign_ports_of(self, net: Network, links: Sequence[Link]) -> Own:
        bridge = next((link.ifindex for link in links if link.name == net.link), 0)
        found = (link for link in links if bridge and link.master == bridge and link.up)
        # one of ours that others renamed stays closed, as no rule guards that name, until it has its own again
        ports = (link.name for link in found if link.group != PORTS)
        # one of ours that is not programmed was left by a join that a crash cut short, and is about to be removed
        strange = (port for port in ports if port not in self._programmed and not OWN_LINK.fullmatch(port))
        return _merged(antispoofing_rules.belonging(net, port) for port in strange)

    async def allow(self, net: Network, endpoint: Endpoint, attachment: Attachment) -> None:
        """Let a port send what is its own and nothing else: before it is there, or when it becomes the holder's."""
        port, new = attachment.host_link, antispoofing_rules.elements(net, endpoint, attachment)
        if new != self._programmed.get(port, {}):
            await self._change({port: new})

    async def remove(self, ports: Iterable[str]) -> None:
        """Once the ports are silent, all in one transaction. What stays when that fails names ports that will never be
        there again, and is taken away by the next repair."""
        known: dict[str, Own] = {port: {} for port in ports if self._programmed.get(port)}
        try:
            if known:
                await self._change(known)
        except Error as failure:
            _log.warning("the packet filter still knows %s: %s", ", ".join(known), failure)

    async def _change(self, wanted: Mapping[str, Own]) -> None:
        """What ports may send from now on; nothing: they are forgotten."""
        async with self._rules.changing():
            # known before the kernel may refuse, having lost all of it: who makes it anew goes by what is known
            old = _merged(self._programmed.pop(port, {}) for port in wanted)
            self._programmed |= {port: own for port, own in wanted.items() if own}
            await self._workers.run(self._firewall.change, antispoofing_rules.diff(old, _merged(wanted.values())))


def _merged(all_: Iterable[Own]) -> Own:
    return {element: value for own in all_ for element, value in own.items()}
