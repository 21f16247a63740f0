"""What is programmed of each port's guard, and how it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
        await self._change(attachment.host_link, guard.elements(net, endpoint, attachment))

    async def forget(self, attachment: Attachment) -> None:
        """Once the port is silent. What stays when that fails names a port that will never be there again, and is
        taken away by the next repair."""
        try:
            await self._change(attachment.host_link, {})
        except Error as failure:
            _log.warning("the packet filter still knows port %s: %s", attachment.host_link, failure)

    async def _change(self, port: str, new: Own) -> None:
        if new == self._programmed.get(port, {}):
            return
        async with self._rules.changing():
            # known before the kernel may refuse, having lost all of it: who makes it anew goes by what is known
            old = self._programmed.pop(port, {})
            if new:
                self._programmed[port] = new
            await self._workers.run(self._firewall.change, guard.turned(old, new))
