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

from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.flow_tables import FlowTable, ServiceFlows
from sandnet.core.reconcile.neighbour_table import NeighbourTable
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.reconciler import Reconciler
from sandnet.core.reconcile.scanner import Candidates, Scanner
from sandnet.core.reconcile.subnet_conflicts import SubnetConflicts
from sandnet.core.reconcile.uplink_checks import Uplinks
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.kernel.types import Changes, NamespaceState, Port
from sandnet.model import Attachment, Network, Phase

_log = logging.getLogger(__name__)

POLL_INTERVAL = 0.25
"""Seconds between two looks at the news."""
SLOW_POLL_INTERVAL = 1.0
"""Seconds between two looks at what tells no news by itself."""
RULES_PAUSE = 1.0
"""Seconds between two comparisons of the rules: a firewall that is rewritten all day must not keep us busy."""
PERIOD = 60.0
"""Seconds between two comparisons of everything."""
FIRST_SCAN_DELAY = 5.0
"""Seconds from the start to the first one: what happened before we listened is no news."""
DUTY_CYCLE = 4.0
"""Seconds of rest for each second of looking and repairing: it must not keep a processor busy."""
LONGEST_PAUSE = 0.75
"""Seconds; however long the work before it took, what is removed next is to be back within two."""


class DriftWatcher:
    """Three background tasks: one reads news and repairs, one compares everything, one looks after the state file. None
    keeps another, whatever hangs."""

    def __init__(self, context: Context, reconcile: Reconciler) -> None:
        self._context = context
        self._records = context.records
        self._reconcile = reconcile
        self._desired = DesiredState(context)
        self._scanner = Scanner(context, self._desired)
        self._conflicts = SubnetConflicts(context)
        self._flows = FlowTable(context.kernel.sysctl, context.workers)
        self._neighbours = NeighbourTable(context.kernel.survey, context.workers)
        self._service_flows = ServiceFlows(context.kernel.firewall, context.workers)
        self._uplinks = Uplinks(context.kernel.sysctl, context.kernel.survey, context.workers, self._desired)
        self._tasks: list[asyncio.Task[None]] = []
        self._repairs: dict[str, asyncio.Task[None]] = {}
        """Of sandboxes, by container id."""
        self._slow_at = self._rules_at = 0.0
        self._mounts = self._rules = False
        """Changed, and not looked at since."""
        self._found = Candidates()
        """By the news, which nobody tells twice, and by comparing everything; kept until they have been looked at."""
        self._missed = asyncio.Event()
        """News were lost: everything is to be compared now."""
        self._errors: dict[str, str] = {}
        """Why nothing is noticed, by task."""

    @property
    def problems(self) -> list[str]:
        """What could not be repaired, and why nothing is noticed if that is so."""
        self._reconcile.failing.forget(self._is_absent)
        reporters = (self._reconcile.failing, self._flows, self._service_flows, self._neighbours, self._uplinks)
        return [
            *(problem for reporter in reporters for problem in reporter.problems),
            *dict.fromkeys(self._errors.values()),
        ]

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each()) for each in (self._listen, self._compare, self._maintain)]

    def close(self) -> None:
        """Stop noticing; a repair under way is finished by the operations."""
        for task in (*self._tasks, *self._repairs.values()):
            task.cancel()

    async def _listen(self) -> None:
        while True:
            began = time.monotonic()
            await self._tried("listening", self._once)
            # whoever changes something all day, in a sandbox of his own too, must not keep us at it
            await asyncio.sleep(max(POLL_INTERVAL, min(LONGEST_PAUSE, (time.monotonic() - began) * DUTY_CYCLE)))

    async def _compare(self) -> None:
        pause = FIRST_SCAN_DELAY
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._missed.wait(), pause)
            pause = PERIOD
            await self._tried("comparing", self._compare_everything)

    async def _maintain(self) -> None:
        while True:
            await self._tried("keeping the state file", self._records.repair_store)
            await asyncio.sleep(SLOW_POLL_INTERVAL)

    async def _compare_everything(self) -> None:
        began, missed = time.monotonic(), self._missed.is_set()
        self._missed.clear()
        await self._conflicts.check()
        await self._uplinks.list_links()
        self._found.add(await self._scanner.scan(0 if missed else DUTY_CYCLE))
        if missed:  # it did not rest amid its work
            await asyncio.sleep(min(LONGEST_PAUSE, (time.monotonic() - began) * DUTY_CYCLE))

    async def _tried(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Past failures: the next round must come."""
        try:
            await work()
            self._errors.pop(what, None)
        except Error as failure:
            self._errors[what] = f"changes by others are not noticed: {failure}"
        except Exception as failure:
            _log.exception("%s failed", what)
            self._errors[what] = f"changes by others are not noticed: {failure!r}"

    async def _once(self) -> None:
        await self._reconcile.publish_repaired()
        news = await self._context.workers.run(self._context.kernel.watch.read)
        self._found.add(self._candidates_of(news))
        self._mounts, self._rules = self._mounts or news.mounts, self._rules or news.rules
        if news.missed:
            self._missed.set()
        now = time.monotonic()
        if self._rules and now >= self._rules_at:
            self._found.rules, self._rules, self._rules_at = True, False, now + RULES_PAUSE
        if now >= self._slow_at:
            self._slow_at = now + SLOW_POLL_INTERVAL
            self._found.add(await self._slow())
            if self._reconcile.holding.problems:
                await self._context.operations.run(self._reconcile.holding.retry())
        if news.extended and news.extended - self._desired.links():
            await self._conflicts.check()
        await self._reconcile_candidates()

    async def _reconcile_candidates(self) -> None:
        """Have looked at closely what seems wrong, and what has waited long enough."""
        suspects, self._found = self._found, Candidates()
        suspects.add(self._reconcile.failing.due())
        suspects = self._reconcile.failing.ready(suspects)
        busy = suspects.sandboxes & self._repairs.keys()
        self._found.sandboxes |= busy
        sandboxes, suspects.sandboxes = suspects.sandboxes - busy, set()
        if suspects:
            try:
                await self._stable(suspects)
            except Exception:
                self._found.sandboxes |= sandboxes
                raise
        for container_id in sandboxes:
            self._begin_repair(container_id)

    def _begin_repair(self, container_id: str) -> None:
        """Look at a sandbox in a task of its own: root inside can make that last."""

        def ended(_: asyncio.Task[None]) -> None:
            self._repairs.pop(container_id, None)

        work = self._tried("repairing", partial(self._stable, Candidates((), [container_id])))
        self._repairs[container_id] = task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)

    async def _stable(self, suspects: Candidates) -> None:
        try:
            await self._context.operations.run(self._reconcile.reconcile(suspects, fix=True))
        except Exception:
            self._found.add(suspects)
            raise

    async def _slow(self) -> Candidates:
        """Files, mounts and parameters."""
        found = Candidates((), await self._context.host_files.find_changed(thorough=False))
        if self._mounts:
            sandboxes = self._desired.sandboxes()
            pinned = await self._context.workers.run(self._context.kernel.survey.pinned)
            self._mounts = False
            found.sandboxes |= {sandbox.container_id for sandbox in sandboxes if sandbox.key not in pinned}
        found.networks = await self._scanner.changed_networks()
        found.parameters = await self._scanner.parameters_differ()
        await self._flows.check()
        await self._service_flows.check()
        await self._neighbours.look()
        await self._uplinks.check()
        return found

    def _candidates_of(self, news: Changes) -> Candidates:
        """Whom the news make suspects."""
        found = Candidates()
        if not any((news.links, news.deleted, news.reduced, news.in_namespaces, news.reduced_namespaces)):
            return found
        networks = {net.link: net for net in self._desired.networks() if net.link}
        attached = {each.host_link: each for each in self._records.attachments() if self._is_stable(each)}
        names = {number: name for name, number in self._context.kernel.watch.namespaces().items()}
        deep = {names[number] for number in news.reduced_namespaces if number in names}
        for name in {*news.deleted, *news.reduced, *deep, *news.links}:
            changed = news.links.get(name)
            certain = name in news.deleted or name in news.reduced or name in deep
            if name in networks and (certain or (changed and self._may_differ(networks[name], changed))):
                found.networks.add(networks[name].id)
            elif name in attached and (certain or (changed and self._differs_quickly(attached[name], changed))):
                found.sandboxes.add(attached[name].container_id)
                found.networks.add(attached[name].network_id)  # nothing can be plugged into a bridge that is gone
        inside = ((names.get(number), ports) for number, ports in news.in_namespaces.items())
        known = ((attached[name].container_id, ports) for name, ports in inside if name in attached)
        found.sandboxes |= {container for container, ports in known if self._inner_differs(container, ports)}
        found.strays = bool(orphaned_links(NamespaceState(news.links, {}, {}, ()), self._desired.links()))
        return found

    def _may_differ(self, network: Network, port: Port) -> bool:
        return self._context.drivers[network.driver].may_differ(network, port)

    def _inner_differs(self, container_id: str, ports: Sequence[Port]) -> bool:
        """Whether a link inside is not as its network wants it; those that are not ours do not count."""
        sandbox = self._records.sandbox(container_id)
        ours = {veth.interface: veth for _, veth in self._desired.sandbox(sandbox).links} if sandbox else {}
        for port in ports:
            veth = ours.get(port.link.name)
            if veth and not (port.link.up and port.link.mac == veth.mac and veth.mtu in (0, port.link.mtu)):
                return True
            if port.link.name == "lo" and not port.link.up:
                return True
        return False

    def _is_absent(self, one: Candidates) -> bool:
        networks, sandboxes = map(self._records.network, one.networks), map(self._records.sandbox, one.sandboxes)
        return None in (*networks, *sandboxes)

    def _is_stable(self, attachment: Attachment) -> bool:
        """Whether it has a link, and nobody is changing it or its sandbox."""
        if not attachment.host_link or attachment.phase is not Phase.READY:
            return False
        return self._desired.is_stable(self._records.sandbox(attachment.container_id))

    def _differs_quickly(self, attachment: Attachment, port: Port) -> bool:
        """Whether the host's end of a pair is not as its network wants it."""
        network = self._records.network(attachment.network_id)
        endpoint = self._records.endpoint(attachment.endpoint_id)
        driver = self._context.drivers[network.driver] if network else None
        veth = driver.link(network, endpoint, attachment) if driver and network and endpoint else None
        if veth is None:
            return False
        options = (port.isolated, port.hairpin) == (veth.isolated, veth.hairpin)
        bridged = self._context.kernel.watch.name(port.link.master) == veth.bridge
        return not (port.link.up and bridged and options) or veth.mtu not in (0, port.link.mtu)
