"""Notice changes that other processes make, and have them repaired, while the daemon runs.

Kernel notifications are read four times a second. Files, mounts, parameters and the state file are checked each second.
Everything is compared each minute as well. Notifications only name candidates. What the daemon's own joins and leaves
change is no candidate, because its records are not ready or its links are as desired.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from sandnet.core.reconcile.flow_tables import FlowTable
from sandnet.core.reconcile.neighbour_table import NeighbourTable
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.peer_neighbours import PeerNeighbours
from sandnet.core.reconcile.reconciler import Reconciler
from sandnet.core.reconcile.sandbox_diff import port_faults
from sandnet.core.reconcile.scanner import Candidates, Scanner
from sandnet.core.reconcile.subnet_conflicts import SubnetConflicts
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.kernel.types import Changes, Port
from sandnet.model import Attachment, Network, Phase
from sandnet.model.link_names import port_of

_log = logging.getLogger(__name__)

POLL_INTERVAL = 0.25
"""Seconds between two reads of the notifications."""
SLOW_POLL_INTERVAL = 1.0
"""Seconds between two checks of objects that send no notifications."""
RULES_INTERVAL = 1.0
"""Seconds between two comparisons of the rules: a firewall that is rewritten all day must not keep the daemon busy."""
PERIOD = 60.0
"""Seconds between two comparisons of everything."""
FIRST_SCAN_DELAY = 5.0
"""Seconds from the start to the first comparison: there are no notifications of earlier changes."""
DUTY_CYCLE = 4.0
"""Seconds of pause for each second of checks and repairs: they must not keep a processor busy."""
LONGEST_PAUSE = 0.75
"""The longest pause in seconds, however long the work took: the next damage is to be repaired within two seconds."""


def listening_pause(worked: float) -> float:
    """Return the seconds of pause after a read of notifications, and the work that followed, took ``worked`` seconds.

    A process that changes something all day, perhaps in its own sandbox, must not keep the daemon busy.
    """
    return max(POLL_INTERVAL, min(LONGEST_PAUSE, worked * DUTY_CYCLE))


class DriftWatcher:
    """Four background tasks: reading notifications and repairing, comparing everything, checking the state file, and
    giving sandboxes neighbour entries for each other.

    None of them waits for another, whatever hangs.
    """

    def __init__(self, context: Context, scanner: Scanner, reconcile: Reconciler) -> None:
        self._context = context
        self._records = context.records
        self._reconcile = reconcile
        self._desired = scanner.desired
        self._scanner = scanner
        self._conflicts = SubnetConflicts(context.records, context.kernel.host, context.workers)
        self._flows = FlowTable(context.kernel.sysctl, context.workers)
        self._neighbours = NeighbourTable(context.kernel.state_reader, context.workers)
        self._peers = PeerNeighbours(self._desired, context.kernel.links, context.workers)
        self._tasks: list[asyncio.Task[None]] = []
        self._repairs: dict[str, asyncio.Task[None]] = {}
        """Repairs of sandboxes in progress, by container id."""
        self._slow_at = self._rules_at = 0.0
        self._mounts = self._rules = False
        """Whether they changed and have not been checked since."""
        self._candidates = Candidates()
        """Candidates from notifications, which are sent only once, and from comparisons, until they are checked."""
        self._missed = asyncio.Event()
        """Set when notifications were lost: everything is to be compared now."""
        self._errors: dict[str, str] = {}
        """The reason why changes are not noticed, by task."""

    @property
    def problems(self) -> list[str]:
        """Failed repairs, and the reason why changes are not noticed, if so."""
        self._reconcile.failing.forget(self._is_absent)
        reconcile = self._reconcile
        reporters = (reconcile.failing, self._flows, reconcile.service_flows, self._neighbours, reconcile.uplinks)
        return [
            *(problem for reporter in reporters for problem in reporter.problems),
            *dict.fromkeys(self._errors.values()),
        ]

    def start(self) -> None:
        """Start the background tasks."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(each()) for each in (self._listen, self._compare, self._maintain, self._introduce)
        ]

    def close(self) -> None:
        """Stop the background tasks; the operations finish a repair in progress."""
        for task in (*self._tasks, *self._repairs.values()):
            task.cancel()

    async def _listen(self) -> None:
        while True:
            began = time.monotonic()
            await self._guarded("listening", self._poll)
            await asyncio.sleep(listening_pause(time.monotonic() - began))

    async def _compare(self) -> None:
        pause = FIRST_SCAN_DELAY
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._missed.wait(), pause)
            pause = PERIOD
            await self._guarded("comparing", self._compare_everything)

    async def _maintain(self) -> None:
        while True:
            await self._guarded("keeping the state file", self._records.repair_store)
            await asyncio.sleep(SLOW_POLL_INTERVAL)

    async def _introduce(self) -> None:
        while True:
            await self._guarded("giving neighbours", partial(self._peers.update, self._neighbours.full))
            await asyncio.sleep(SLOW_POLL_INTERVAL)

    async def _compare_everything(self) -> None:
        began, missed = time.monotonic(), self._missed.is_set()
        self._missed.clear()
        await self._conflicts.check()
        await self._reconcile.uplinks.list_links()
        self._candidates.add(await self._scanner.scan(0 if missed else DUTY_CYCLE))
        if missed:  # there were no pauses during this scan
            await asyncio.sleep(min(LONGEST_PAUSE, (time.monotonic() - began) * DUTY_CYCLE))

    async def _guarded(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run work and record its failure, so that the next round is not lost."""
        try:
            await work()
            self._errors.pop(what, None)
        except Error as failure:
            self._errors[what] = f"changes by others are not noticed: {failure}"
        except Exception as failure:
            _log.exception("%s failed", what)
            self._errors[what] = f"changes by others are not noticed: {failure!r}"

    async def _poll(self) -> None:
        await self._reconcile.publish_repaired()
        changes = await self._context.workers.run(self._context.kernel.watcher.read)
        self._candidates.add(self._candidates_of(changes))
        self._mounts, self._rules = self._mounts or changes.mounts, self._rules or changes.rules
        if changes.missed:
            self._missed.set()
        now = time.monotonic()
        if self._rules and now >= self._rules_at:
            self._candidates.rules, self._rules, self._rules_at = True, False, now + RULES_INTERVAL
        if now >= self._slow_at:
            self._slow_at = now + SLOW_POLL_INTERVAL
            self._candidates.add(await self._poll_slow())
            if self._reconcile.holding.problems:
                await self._context.operations.run(self._reconcile.holding.retry())
        if not all(map(self._desired.is_claimed, changes.extended)):
            await self._conflicts.check()
        await self._reconcile_candidates()

    async def _reconcile_candidates(self) -> None:
        """Reconcile the candidates, and the failed repairs that are due."""
        candidates, self._candidates = self._candidates, Candidates()
        candidates.add(self._reconcile.failing.due())
        candidates = self._reconcile.failing.ready(candidates)
        busy = candidates.sandboxes & self._repairs.keys()
        self._candidates.sandboxes |= busy
        sandboxes, candidates.sandboxes = candidates.sandboxes - busy, set()
        if candidates:
            try:
                await self._reconcile_now(candidates)
            except Exception:
                self._candidates.sandboxes |= sandboxes
                raise
        for container_id in sandboxes:
            self._begin_repair(container_id)

    def _begin_repair(self, container_id: str) -> None:
        """Reconcile a sandbox in a task of its own: root inside can make that take long."""

        def ended(_: asyncio.Task[None]) -> None:
            self._repairs.pop(container_id, None)

        work = self._guarded("repairing", partial(self._reconcile_now, Candidates((), [container_id])))
        self._repairs[container_id] = task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)

    async def _reconcile_now(self, candidates: Candidates) -> None:
        try:
            await self._context.operations.run(self._reconcile.reconcile(candidates, fix=True))
        except Exception:
            self._candidates.add(candidates)
            raise

    async def _poll_slow(self) -> Candidates:
        """Check files, mounts and parameters; return the candidates."""
        found = Candidates((), await self._context.host_files.find_changed(thorough=False))
        if self._mounts:
            sandboxes = self._desired.sandboxes()
            pinned = await self._context.workers.run(self._context.kernel.state_reader.pinned)
            self._mounts = False
            found.sandboxes |= {sandbox.container_id for sandbox in sandboxes if sandbox.key not in pinned}
        found.networks = await self._scanner.changed_networks()
        found.parameters = await self._scanner.parameters_differ()
        await self._flows.check()
        await self._reconcile.service_flows.check()
        await self._neighbours.check()
        await self._reconcile.uplinks.check()
        return found

    def _candidates_of(self, changes: Changes) -> Candidates:
        """Return the candidates that follow from notifications."""
        found = Candidates()
        if not any(
            (changes.links, changes.deleted, changes.reduced, changes.in_namespaces, changes.reduced_namespaces)
        ):
            return found
        links_into = self._context.kernel.watcher.links_into
        inside_reduced = {link for number in changes.reduced_namespaces for link in links_into(number)}
        for link in {*changes.deleted, *changes.reduced, *inside_reduced, *changes.links}:
            name, changed = port_of(link), changes.links.get(link)
            certain = link in changes.deleted or link in changes.reduced or link in inside_reduced or link != name
            network, attachment = self._ready_network(name), self._stable_attachment(name)
            if network and (certain or (changed and self._may_differ(network, changed))):
                found.networks.add(network.id)
            if attachment and (certain or (changed and self._host_end_differs(attachment, changed))):
                found.sandboxes.add(attachment.container_id)
                found.networks.add(attachment.network_id)  # no link can be attached to a deleted bridge
        for number, ports in changes.in_namespaces.items():
            attached = filter(None, map(self._stable_attachment, links_into(number)))
            containers = {attachment.container_id for attachment in attached}
            found.sandboxes |= {container for container in containers if self._inner_differs(container, ports)}
        found.orphans = bool(orphaned_links(changes.links.values(), self._desired.is_claimed))
        return found

    def _may_differ(self, network: Network, port: Port) -> bool:
        return self._context.drivers[network.driver].may_differ(network, port)

    def _inner_differs(self, container_id: str, ports: Sequence[Port]) -> bool:
        """Return whether one of the daemon's links inside is not as its network requires; other links do not count."""
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

    def _ready_network(self, link: str) -> Network | None:
        """Return the network that a link belongs to, if that is ready."""
        network = self._records.network_of_link(link)
        return network if network and network.phase is Phase.READY else None

    def _stable_attachment(self, link: str) -> Attachment | None:
        """Return the attachment that a link belongs to, if no operation is changing it or its sandbox."""
        attachment = self._records.attachment_of_link(link)
        if attachment is None or attachment.phase is not Phase.READY:
            return None
        return attachment if self._desired.is_stable(self._records.sandbox(attachment.container_id)) else None

    def _host_end_differs(self, attachment: Attachment, port: Port) -> bool:
        """Return whether the host's end of a pair is not as its network requires."""
        network = self._records.network(attachment.network_id)
        endpoint = self._records.endpoint(attachment.endpoint_id)
        driver = self._context.drivers[network.driver] if network else None
        veth = driver.link(network, endpoint, attachment) if driver and network and endpoint else None
        if veth is None:
            return False
        has_master = self._context.kernel.watcher.name(port.link.master) == veth.master
        return any(port_faults(veth, port, has_master=has_master))
