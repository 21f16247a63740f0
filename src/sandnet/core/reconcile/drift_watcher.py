"""Notices what others change, and has it repaired, while the daemon runs.

The kernel's news are read four times a second; files, mounts, parameters and the state file are looked at each
second; everything is compared each minute, beside that. News only say whom to suspect: what a join or leave of our
own changes is no suspect, as its records are not ready or its links look as they should.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from sandnet.core.reconcile.desired_state import Desired
from sandnet.core.reconcile.flow_tables import FlowTable, ServiceFlows
from sandnet.core.reconcile.neighbour_table import NeighbourTable
from sandnet.core.reconcile.orphaned_links import strays
from sandnet.core.reconcile.reconciler import Reconcile
from sandnet.core.reconcile.scanner import Lookout, Suspects
from sandnet.core.reconcile.subnet_conflicts import Clashes
from sandnet.core.reconcile.uplink_checks import Uplinks
from sandnet.core.runtime.context import Parts
from sandnet.errors import Error
from sandnet.kernel.types import News, Port, Space
from sandnet.model import Attachment, Network, Phase
from sandnet.model.link_names import bridge_mac

_log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at the news."""
SLOW = 1.0
"""Seconds between two looks at what tells no news by itself."""
RULES_PAUSE = 1.0
"""Seconds between two comparisons of the rules: a firewall that is rewritten all day must not keep us busy."""
PERIOD = 60.0
"""Seconds between two comparisons of everything."""
SOON = 5.0
"""Seconds from the start to the first one: what happened before we listened is no news."""
REST = 4.0
"""Seconds of rest for each second of looking and repairing: it must not keep a processor busy."""
LONGEST_REST = 0.75
"""Seconds; however long the work before it took, what is removed next is to be back within two."""


class Healing:
    """Three background tasks: one reads news and repairs, one compares everything, one looks after the state file. None
    keeps another, whatever hangs."""

    def __init__(self, parts: Parts, reconcile: Reconcile) -> None:
        self._parts = parts
        self._records = parts.records
        self._reconcile = reconcile
        self._desired = Desired(parts)
        self._lookout = Lookout(parts, self._desired)
        self._clashes = Clashes(parts)
        self._flows = FlowTable(parts.kernel.sysctl, parts.workers)
        self._neighbours = NeighbourTable(parts.kernel.survey, parts.workers)
        self._service_flows = ServiceFlows(parts.kernel.firewall, parts.workers)
        self._uplinks = Uplinks(parts.kernel.sysctl, parts.kernel.survey, parts.workers, self._desired)
        self._tasks: list[asyncio.Task[None]] = []
        self._repairs: dict[str, asyncio.Task[None]] = {}
        """Of sandboxes, by container id."""
        self._slow_at = self._rules_at = 0.0
        self._mounts = self._rules = False
        """Changed, and not looked at since."""
        self._found = Suspects()
        """By the news, which nobody tells twice, and by comparing everything; kept until they have been looked at."""
        self._missed = asyncio.Event()
        """News were lost: everything is to be compared now."""
        self._troubles: dict[str, str] = {}
        """Why nothing is noticed, by task."""

    @property
    def problems(self) -> list[str]:
        """What could not be repaired, and why nothing is noticed if that is so."""
        self._reconcile.failing.forget(self._is_gone)
        parts = (self._reconcile.failing, self._flows, self._service_flows, self._neighbours, self._uplinks)
        return [*(problem for part in parts for problem in part.problems), *dict.fromkeys(self._troubles.values())]

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each()) for each in (self._listen, self._compare, self._keep)]

    def close(self) -> None:
        """Stop noticing; a repair under way is finished by the operations."""
        for task in (*self._tasks, *self._repairs.values()):
            task.cancel()

    async def _listen(self) -> None:
        while True:
            began = time.monotonic()
            await self._tried("listening", self._once)
            # whoever changes something all day, in a sandbox of his own too, must not keep us at it
            await asyncio.sleep(max(TICK, min(LONGEST_REST, (time.monotonic() - began) * REST)))

    async def _compare(self) -> None:
        pause = SOON
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._missed.wait(), pause)
            pause = PERIOD
            await self._tried("comparing", self._compare_everything)

    async def _keep(self) -> None:
        while True:
            await self._tried("keeping the state file", self._records.mend)
            await asyncio.sleep(SLOW)

    async def _compare_everything(self) -> None:
        began, missed = time.monotonic(), self._missed.is_set()
        self._missed.clear()
        await self._clashes.look()
        await self._uplinks.list_links()
        self._found.add(await self._lookout.everything(0 if missed else REST))
        if missed:  # it did not rest amid its work
            await asyncio.sleep(min(LONGEST_REST, (time.monotonic() - began) * REST))

    async def _tried(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Past failures: the next round must come."""
        try:
            await work()
            self._troubles.pop(what, None)
        except Error as failure:
            self._troubles[what] = f"changes by others are not noticed: {failure}"
        except Exception as failure:
            _log.exception("%s failed", what)
            self._troubles[what] = f"changes by others are not noticed: {failure!r}"

    async def _once(self) -> None:
        await self._reconcile.tell_mended()
        news = await self._parts.workers.run(self._parts.kernel.watch.read)
        self._found.add(self._judged(news))
        self._mounts, self._rules = self._mounts or news.mounts, self._rules or news.rules
        if news.missed:
            self._missed.set()
        now = time.monotonic()
        if self._rules and now >= self._rules_at:
            self._found.rules, self._rules, self._rules_at = True, False, now + RULES_PAUSE
        if now >= self._slow_at:
            self._slow_at = now + SLOW
            self._found.add(await self._slow())
            if self._reconcile.holding.problems:
                await self._parts.operations.run(self._reconcile.holding.retry())
        if news.grown and news.grown - self._desired.links():
            await self._clashes.look()
        await self._settle()

    async def _settle(self) -> None:
        """Have looked at closely what seems wrong, and what has waited long enough."""
        suspects, self._found = self._found, Suspects()
        suspects.add(self._reconcile.failing.due())
        suspects = self._reconcile.failing.patient(suspects)
        busy = suspects.sandboxes & self._repairs.keys()
        self._found.sandboxes |= busy
        boxes, suspects.sandboxes = suspects.sandboxes - busy, set()
        if suspects:
            try:
                await self._settled(suspects)
            except Exception:
                self._found.sandboxes |= boxes
                raise
        for container_id in boxes:
            self._begin_repair(container_id)

    def _begin_repair(self, container_id: str) -> None:
        """Look at a sandbox in a task of its own: root inside can make that last."""

        def ended(_: asyncio.Task[None]) -> None:
            self._repairs.pop(container_id, None)

        work = self._tried("repairing", partial(self._settled, Suspects((), [container_id])))
        self._repairs[container_id] = task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)

    async def _settled(self, suspects: Suspects) -> None:
        try:
            await self._parts.operations.run(self._reconcile.settle(suspects, fix=True))
        except Exception:
            self._found.add(suspects)
            raise

    async def _slow(self) -> Suspects:
        """Files, mounts and parameters."""
        found = Suspects((), await self._parts.files.suspicious(thorough=False))
        if self._mounts:
            boxes = self._desired.sandboxes()
            pinned = await self._parts.workers.run(self._parts.kernel.survey.pinned)
            self._mounts = False
            found.sandboxes |= {box.container_id for box in boxes if box.key not in pinned}
        found.networks = await self._lookout.changed_networks()
        found.parameters = await self._lookout.parameters_seem_wrong()
        await self._flows.look()
        await self._service_flows.look()
        await self._neighbours.look()
        await self._uplinks.look()
        return found

    def _judged(self, news: News) -> Suspects:
        """Whom the news make suspects."""
        found = Suspects()
        if not any((news.links, news.gone, news.lost, news.inner, news.poorer)):
            return found
        networks = {net.link: net for net in self._desired.networks() if net.link}
        attached = {each.host_link: each for each in self._records.attachments() if self._is_settled(each)}
        names = {number: name for name, number in self._parts.kernel.watch.namespaces().items()}
        deep = {names[number] for number in news.poorer if number in names}
        for name in {*news.gone, *news.lost, *deep, *news.links}:
            changed = news.links.get(name)
            certain = name in news.gone or name in news.lost or name in deep
            if name in networks and (certain or (changed and _differs(networks[name], changed))):
                found.networks.add(networks[name].id)
            elif name in attached and (certain or (changed and self._looks_wrong(attached[name], changed))):
                found.sandboxes.add(attached[name].container_id)
                found.networks.add(attached[name].network_id)  # nothing can be plugged into a bridge that is gone
        inside = ((names.get(number), ports) for number, ports in news.inner.items())
        known = ((attached[name].container_id, ports) for name, ports in inside if name in attached)
        found.sandboxes |= {container for container, ports in known if self._inner_differs(container, ports)}
        found.strays = bool(strays(Space(news.links, {}, {}, ()), self._desired.links()))
        return found

    def _inner_differs(self, container_id: str, ports: Sequence[Port]) -> bool:
        """Whether a link inside is not as its network wants it; those that are not ours do not count."""
        box = self._records.sandbox(container_id)
        ours = {veth.interface: veth for _, veth in self._desired.wanted(box).links} if box else {}
        for port in ports:
            veth = ours.get(port.link.name)
            if veth and not (port.link.up and port.link.mac == veth.mac and veth.mtu in (0, port.link.mtu)):
                return True
            if port.link.name == "lo" and not port.link.up:
                return True
        return False

    def _is_gone(self, one: Suspects) -> bool:
        networks, boxes = map(self._records.network, one.networks), map(self._records.sandbox, one.sandboxes)
        return None in (*networks, *boxes)

    def _is_settled(self, attachment: Attachment) -> bool:
        """Whether it has a link, and nobody is changing it or its sandbox."""
        if not attachment.host_link or attachment.phase is not Phase.READY:
            return False
        return self._desired.settled(self._records.sandbox(attachment.container_id))

    def _looks_wrong(self, attachment: Attachment, port: Port) -> bool:
        """Whether the host's end of a pair is not as its network wants it."""
        network = self._records.network(attachment.network_id)
        endpoint = self._records.endpoint(attachment.endpoint_id)
        driver = self._parts.drivers[network.driver] if network else None
        veth = driver.link(network, endpoint, attachment) if driver and network and endpoint else None
        if veth is None:
            return False
        options = (port.isolated, port.hairpin) == (veth.isolated, veth.hairpin)
        bridged = self._parts.kernel.watch.name(port.link.master) == veth.bridge
        return not (port.link.up and bridged and options) or veth.mtu not in (0, port.link.mtu)


def _differs(network: Network, port: Port) -> bool:
    """Whether a bridge is not as its network wants it, as far as its link tells."""
    own = not network.link_adopted and (port.link.snooping or port.link.mac != bridge_mac(network.link))
    return own or not port.link.up or network.mtu not in (0, port.link.mtu) or port.link.kind != "bridge"
