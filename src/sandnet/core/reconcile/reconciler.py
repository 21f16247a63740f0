"""Compares what the records say with what there is, and puts right what differs.

First everything is looked at in bulk, without a lock (``lookout``): what seems wrong is a suspect. A suspect is
looked at again under its object's locks, so a join or leave under way is neither told as drift nor fought. Only what
is wrong then is told, and repaired by the verbs that made it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.reconcile.backoff import RepairBackoff
from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.flow_tables import ServiceFlows
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox, SandboxFault, diff_sandbox
from sandnet.core.reconcile.sandbox_repair import ABSENT, SandboxRepair
from sandnet.core.reconcile.scanner import Candidates, Scanner
from sandnet.core.reconcile.unheld_ports import PortHolding
from sandnet.core.reconcile.uplink_checks import Uplinks
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.types import NamespaceState, Port
from sandnet.model import Attachment, Network, Phase, Sandbox

_log = logging.getLogger(__name__)

AT_ONCE = 2
"""Sandboxes that are repaired at a time: half of the workers stay free for requests."""
LONG = 0.5
"""Seconds; a sandbox whose repair took longer, as root inside works against it, has others' repairs not wait for its
next one."""
TIMEOUT = 1.0
"""Seconds to wait for what is busy: whoever holds it is changing it, and the next comparison looks again."""
NO_NAMES = "programs of the container do not find the names it was given, or whom to ask"
RELEASED = "the namespace that the container came with is gone for good: it was made to leave its networks"
NOT_OURS = "not repaired: who mounts /proc/sys must set it"
LEFT_OVER = "it bears our mark and no record claims it: it is left over, and keeps a place on its bridge"


class Reconciler:
    """Looks for drift, and repairs it."""

    def __init__(self, context: Context, sandboxes: Sandboxes, removal: Deletion, holding: PortHolding) -> None:
        self._context = context
        self.holding = holding
        self._removal = removal
        self._records = context.records
        self._desired = DesiredState(context)
        self._scanner = Scanner(context, self._desired)
        self._uplinks = Uplinks(context.kernel.sysctl, context.kernel.survey, context.workers, self._desired)
        self._service_flows = ServiceFlows(context.kernel.firewall, context.workers)
        self._repair = SandboxRepair(context, sandboxes)
        self._lock = asyncio.Lock()
        self._quick, self._slow = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore()
        self._lingering: set[str] = set()
        """Container ids of sandboxes whose latest repair took long."""
        self.failing = RepairBackoff()
        """What could not be repaired."""

    async def run(self, *, fix: bool) -> list[Drift]:
        """Look at everything; what is wrong, and what was done about it.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell, or the daemon is stopping.
        """
        return await self._context.operations.run(self._everything(fix))

    async def scan(self, rest: float = 0.0) -> Candidates:
        """See :meth:`Scanner.scan`."""
        return await self._scanner.scan(rest)

    async def reconcile(self, suspects: Candidates, *, fix: bool) -> list[Drift]:
        """Look closely at the suspects; what is wrong with them, and what was done about it."""
        async with self._lock:
            told = await self._rules(fix) if suspects.rules else []
            told += await self._parameters(fix) if suspects.parameters else []
            for network_id in suspects.networks:
                told += await self._network(network_id, fix)
            if suspects.strays:
                told += await self._orphaned_links(fix)
        told += await self._sandboxes(suspects.sandboxes, fix)  # their own locks keep two from repairing one
        if fix:
            await self._announce(suspects, told)
        return told

    async def _everything(self, fix: bool) -> list[Drift]:
        suspects = await self.scan()
        suspects.add(self.failing.known())  # one that is well by now is not to be told any more
        ports = await self.holding.retry() if fix else self.holding.faults()
        told = await self.reconcile(suspects, fix=fix)
        beyond_repair = [*await self._uplinks.drift(), *await self._service_flows.drift()]
        return [*told, *ports, *await self._unmet(told), *beyond_repair]

    async def _unmet(self, told: Sequence[Drift]) -> list[Drift]:
        """Return what drivers need of the host and others must set, as far as it was not found to differ already."""
        known = {drift.object for drift in told}
        found = await self._context.host_network.unmet()
        return [each._replace(done=NOT_OURS) for each in _reported(found) if each.object not in known]

    async def publish_repaired(self) -> None:
        """Tell of what verbs have put right meanwhile, as they could not go on without it."""
        told = self._context.host_network.packet_filter.take_repaired()
        if told:
            await self._announce(Candidates(rules=True), [each._replace(done=REPAIRED) for each in _reported(told)])

    async def _announce(self, suspects: Candidates, told: list[Drift]) -> None:
        """Log what became of it, tell of repairs as events, and remember what is left."""
        self.failing.record(suspects, told)
        for drift in told:
            _log.warning("%s %s: %s: %s", drift.kind, drift.object, drift.problem, drift.done)
        await self._records.publish_repairs([drift.repair for drift in told if drift.done == REPAIRED])

    async def _network(self, network_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._context.locks.hold(f"network/{network_id}", max_wait=TIMEOUT):
                net = self._records.network(network_id)
                if net is None or net.phase is not Phase.READY:
                    return []
                host = await self._context.workers.run(self._context.kernel.survey.host, net.link)
                faults = await self._scanner.network_faults([net], host)
                told = [Drift("network", net.name, fault.problem, fault.reason, subject=net) for fault in faults]
                driver = self._context.drivers[net.driver]
                return await _repaired(told, lambda: driver.create_network(net), fix=fix)
        except Error as failure:
            subject = self._records.network(network_id)
            return _unreadable("network", subject.name, failure, subject) if subject else []

    async def _rules(self, fix: bool) -> list[Drift]:
        packet_filter = self._context.host_network.packet_filter
        return await _shared("rules", "bridge", packet_filter.faults, packet_filter.repair, fix=fix)

    async def _parameters(self, fix: bool) -> list[Drift]:
        host = self._context.host_network
        return await _shared("parameter", "bridge", host.parameter_faults, host.repair_parameters, fix=fix)

    async def _sandboxes(self, containers: Iterable[str], fix: bool) -> list[Drift]:
        found = await asyncio.gather(*(self._one_sandbox(container_id, fix) for container_id in containers))
        return [drift for each in found for drift in each]

    async def _one_sandbox(self, container_id: str, fix: bool) -> list[Drift]:
        async with self._slow if container_id in self._lingering else self._quick:
            began = time.monotonic()
            told = await self._sandbox(container_id, fix)
            if any(drift.code == ABSENT for drift in told):
                told = await self._release(container_id, told)
        self._lingering = {each for each in self._lingering - {container_id} if self._records.sandbox(each)}
        if time.monotonic() - began > LONG:
            self._lingering.add(container_id)
        return told

    async def _sandbox(self, container_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._held(container_id) as sandbox:
                if sandbox is None:
                    return []
                wrong = await self._context.workers.run(self._diff, self._desired.sandbox(sandbox))
                told = [self._reported(sandbox, each) for each in wrong]
                told = await _repaired(told, lambda: self._repair.sandbox(sandbox, wrong), fix=fix)
                return [*told, *await self._files(self._records.sandbox(container_id) or sandbox, fix)]
        except Error as failure:
            subject = self._records.sandbox(container_id)
            return _unreadable("sandbox", container_id, failure, subject) if subject else []

    async def _release(self, container_id: str, told: list[Drift]) -> list[Drift]:
        """A container whose namespace is gone for good is dead. A second look says so: a first one may meet a moment
        in which somebody else moves it from one place to another."""
        sandbox = self._records.sandbox(container_id)
        if sandbox and self.failing.knows(told[0].owner, ABSENT):
            return await _repaired(
                [told[0]._replace(problem=RELEASED)], lambda: self._removal.remove_exited(sandbox), fix=True
            )
        return told

    @asynccontextmanager
    async def _held(self, container_id: str) -> AsyncIterator[Sandbox | None]:
        """A sandbox that nobody changes meanwhile; ``None`` when it is gone, or half-way."""
        attached = self._records.attachments_of_container(container_id)
        async with self._context.locks.hold(
            f"sandbox/{container_id}", *(f"endpoint/{each.endpoint_id}" for each in attached), max_wait=TIMEOUT
        ):
            sandbox = self._records.sandbox(container_id)
            now = self._records.attachments_of_container(container_id)
            same = {each.endpoint_id for each in attached} == {each.endpoint_id for each in now}
            yield sandbox if same and self._desired.is_stable(sandbox) else None

    def _diff(self, wanted: DesiredSandbox) -> list[SandboxFault]:
        survey = self._context.kernel.survey
        links: dict[str, Port] = {}
        for name in {name for _, veth in wanted.links for name in (veth.host_link, veth.bridge)}:
            links.update(survey.host(name).links)
        (inside,) = survey.inside([wanted.sandbox.key])
        return [*diff_sandbox(wanted, NamespaceState(links, {}, {}, ()), inside)]

    def _reported(self, sandbox: Sandbox, wrong: SandboxFault) -> Drift:
        if wrong.attachment is None:
            return Drift("sandbox", sandbox.container_id, wrong.problem, wrong.reason, subject=sandbox)
        return Drift("backend", self._named(wrong.attachment), wrong.problem, wrong.reason, subject=wrong.attachment)

    def _named(self, attachment: Attachment) -> str:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        network = self._records.network(attachment.network_id)
        return f"{attachment.container_id} of {endpoint.name if endpoint else '?'}.{network.name if network else '?'}"

    async def _files(self, sandbox: Sandbox, fix: bool) -> list[Drift]:
        faults = await self._context.workers.run(self._context.host_files.check_job(sandbox))
        told = [Drift("file", fault.path, fault.problem, NO_NAMES, subject=sandbox) for fault in faults]
        return await _repaired(told, lambda: self._repair.files(sandbox), fix=fix)

    async def _orphaned_links(self, fix: bool) -> list[Drift]:
        claimed, links = self._desired.links(), self._context.kernel.links
        try:
            host = await self._context.workers.run(self._context.kernel.survey.host)
        except Error as failure:
            return _unreadable("stray", "links", failure)
        found = orphaned_links(host, claimed | self._desired.links())
        told = [Drift("stray", name, "the link belongs to no record", LEFT_OVER) for name in found]
        return await _repaired(told, lambda: self._context.workers.run(links.delete, found), fix=fix)


def _reported(faults: Iterable[Fault]) -> list[Drift]:
    return [Drift(fault.what, fault.object, fault.problem, fault.reason) for fault in faults]


async def _shared(
    kind: str,
    name: str,
    look: Callable[[], Awaitable[Iterable[Fault]]],
    repair: Callable[[], Awaitable[object]],
    *,
    fix: bool,
) -> list[Drift]:
    """Of what a driver's networks share. Where it cannot be looked at, all else is."""
    try:
        found = _reported(await look())
    except Error as failure:
        return _unreadable(kind, name, failure)
    return await _repaired(found, repair, fix=fix)


def _unreadable(kind: str, name: str, failure: Error, subject: Network | Sandbox | None = None) -> list[Drift]:
    """What is told of something suspicious that could not be looked at closely: it is tried again. Of what is busy
    nothing: whoever holds it is changing it."""
    if failure.code == "busy":
        return []
    problem, reason = "it seems wrong, and cannot be looked at", "what is wrong with it is not repaired"
    return [Drift(kind, name, problem, reason, f"not repaired: {failure}", subject)]


async def _repaired(told: list[Drift], repair: Callable[[], Awaitable[object]], *, fix: bool) -> list[Drift]:
    """The same, with what became of it."""
    if not told or not fix:
        return told
    try:
        await repair()
    except Exception as failure:  # told to whoever asked, and to the log
        if not isinstance(failure, Error):
            _log.exception("repair of %s failed", told[0].object)
        reason, code = (failure.reason, failure.code) if isinstance(failure, Error) else (str(failure), "")
        return [drift._replace(done=f"not repaired: {reason}", code=code) for drift in told]
    return [drift._replace(done=REPAIRED) for drift in told]
