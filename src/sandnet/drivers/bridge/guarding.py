"""What is programmed of each port's guard, and how it changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from sandnet.drivers.base import NetworkState
from sandnet.drivers.bridge import guard
from sandnet.drivers.bridge.guard import Own
from sandnet.drivers.bridge.rules import Rules
from sandnet.errors import Error
from sandnet.kernel.base import Firewall
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, Network

_log = logging.getLogger(__name__)


class Guarding:
    """Remembers what each port may send as the kernel has it, so that a start and a join do not say it twice.

    Callers take turns for one port.
    """

    def __init__(self, firewall: Firewall, workers: Workers, rules: Rules) -> None:
        self._firewall = firewall
        self._workers = workers
        self._rules = rules
        self._programmed: dict[str, Own] = {}

    def start(self, state: Sequence[NetworkState]) -> None:
        """Take these for the ports there are; whoever calls has :func:`guard.ruleset` of them run."""
        self._programmed = {
            attachment.host_link: guard.elements(each.network, endpoint, attachment)
            for each in state
            for endpoint, backends in each.endpoints
            for attachment in backends
        }

    def ports(self) -> Sequence[Own]:
        """What is programmed."""
        return [*self._programmed.values()]

    async def let_in(self, net: Network, endpoint: Endpoint, attachment: Attachment) -> None:
        """Let a port send what is its own and nothing else: before it is there, or when it becomes the holder's."""
        port, new = attachment.host_link, guard.elements(net, endpoint, attachment)
        if new != self._programmed.get(port, {}):
            await self._change({port: new})

    async def forget(self, ports: Iterable[str]) -> None:
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
            await self._workers.run(self._firewall.change, guard.turned(old, _merged(wanted.values())))


def _merged(all_: Iterable[Own]) -> Own:
    return {element: value for own in all_ for element, value in own.items()}
