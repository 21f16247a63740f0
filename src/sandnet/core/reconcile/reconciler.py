"""The reconciler: it compares the records with the kernel and the files, and repairs differences.

First everything is scanned in bulk, without a lock (``Scanner``): what seems wrong is a candidate. A candidate is
checked again under its object's locks, so a join or leave in progress is neither reported as drift nor undone. Only
remaining differences are reported, and repaired by the same steps that created the object.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.reconcile.backoff import RepairBackoff
from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.flow_tables import ServiceFlows
from sandnet.core.reconcile.orphaned_links import orphaned_links
from sandnet.core.reconcile.sandbox_diff import DesiredSandbox, diff_sandbox, with_limits, with_settings
from sandnet.core.reconcile.sandbox_repair import ABSENT, SandboxRepair
from sandnet.core.reconcile.scanner import Candidates, Scanner
from sandnet.core.reconcile.unheld_ports import PortHolding
from sandnet.core.reconcile.uplink_checks import Uplinks
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.types import NamespaceState, Port
from sandnet.model import Attachment, Network, Phase, Sandbox
from sandnet.model.link_names import shaper_name

_log = logging.getLogger(__name__)

PARALLEL_REPAIRS = 2
"""Sandboxes that are repaired at a time: half of the workers stay free for requests."""
SLOW_REPAIR = 0.5
"""Seconds after which a repair counts as slow, as root inside the sandbox works against it.

The next repair of that sandbox gets a slot apart, so that repairs of other sandboxes do not wait for it.
"""
TIMEOUT = 1.0
"""Seconds to wait for a busy object: the lock's holder is changing it, and the next comparison checks it again."""
RELEASED = "the namespace that the container came with is gone for good: it was made to leave its networks"
NOT_OURS = "not repaired: who mounts /proc/sys must set it"
LEFT_OVER = "it has the mark of sandnet and no record claims it: it takes room on the host"


class Reconciler:
    """Finds drift and repairs it."""

    def __init__(
        self, context: Context, scanner: Scanner, repair: SandboxRepair, removal: Deletion, holding: PortHolding
    ) -> None:
        self._context = context
        self.holding = holding
        self._removal = removal
        self._records = context.records
        self._desired = scanner.desired
        self._scanner = scanner
        self.uplinks = Uplinks(context.kernel.sysctl, context.kernel.state_reader, context.workers, self._desired)
        self.service_flows = ServiceFlows(context.kernel.firewall, context.workers)
        self._repair = repair
        self._lock = asyncio.Lock()
        self._slots, self._slow_slots = asyncio.Semaphore(PARALLEL_REPAIRS), asyncio.Semaphore()
        self._slow_sandboxes: set[str] = set()
        """Container ids of sandboxes whose latest repair took long."""
        self.failing = RepairBackoff()
        """The repairs that failed."""

    async def run(self, *, fix: bool) -> list[Drift]:
        """Check everything; return the differences, each with the result of its repair.

        Raises:
            Error: ``UNAVAILABLE`` the kernel does not return its state, or the daemon is stopping.
        """
        return await self._context.operations.run(self._run(fix))

    async def scan(self, pause_ratio: float = 0.0) -> Candidates:
        """Scan everything; see :meth:`Scanner.scan`."""
        return await self._scanner.scan(pause_ratio)

    async def reconcile(self, candidates: Candidates, *, fix: bool) -> list[Drift]:
        """Check the candidates under their locks; return the differences, each with the result of its repair."""
        async with self._lock:
            drifts = await self._rules(fix) if candidates.rules else []
            drifts += await self._parameters(fix) if candidates.parameters else []
            for network_id in candidates.networks:
                drifts += await self._network(network_id, fix)
            if candidates.orphans:
                drifts += await self._orphaned_links(fix)
        drifts += await self._sandboxes(candidates.sandboxes, fix)  # their own locks prevent two repairs of one sandbox
        if fix:
            await self._publish(candidates, drifts)
        return drifts

    async def _run(self, fix: bool) -> list[Drift]:
        candidates = await self.scan()
        candidates.add(self.failing.known())  # one that is in order by now must not be reported any more
        ports = await self.holding.retry() if fix else self.holding.faults()
        drifts = await self.reconcile(candidates, fix=fix)
        unrepairable = [*await self.uplinks.drift(), *await self.service_flows.drift()]
        return [*drifts, *ports, *await self._unmet_requirements(drifts), *unrepairable]

    async def _unmet_requirements(self, drifts: Sequence[Drift]) -> list[Drift]:
        """Return requirements of drivers that only the host's owner can meet, without those among the differences."""
        known = {drift.object for drift in drifts}
        found = await self._context.host_network.readonly_faults()
        return [each._replace(done=NOT_OURS) for each in _drifts_of(found) if each.object not in known]

    async def publish_repaired(self) -> None:
        """Publish repairs that other operations made on the way, as they could not continue without them."""
        drifts = self._context.host_network.packet_filter.take_repaired()
        if drifts:
            await self._publish(Candidates(rules=True), [each._replace(done=REPAIRED) for each in _drifts_of(drifts)])

    async def _publish(self, candidates: Candidates, drifts: list[Drift]) -> None:
        """Log the results, publish repairs as events, and record what is left."""
        self.failing.record(candidates, drifts)
        for drift in drifts:
            _log.warning("%s %s: %s: %s", drift.kind, drift.object, drift.problem, drift.done)
        await self._records.publish_repairs([drift.repair for drift in drifts if drift.done == REPAIRED])

    async def _network(self, network_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._context.locks.hold(f"network/{network_id}", max_wait=TIMEOUT):
                net = self._records.network(network_id)
                if net is None or net.phase is not Phase.READY:
                    return []
                host = await self._context.workers.run(self._context.kernel.state_reader.host, net.link)
                faults = await self._scanner.network_faults([net], host)
                drifts = [Drift("network", net.name, fault.problem, fault.reason, subject=net) for fault in faults]
                driver = self._context.drivers[net.driver]
                return await _repaired(drifts, lambda: driver.create_network(net), fix=fix)
        except Error as failure:
            subject = self._records.network(network_id)
            return _unreadable("network", subject.name, failure, subject) if subject else []

    async def _rules(self, fix: bool) -> list[Drift]:
        packet_filter = self._context.host_network.packet_filter
        return await _shared("rules", "host", packet_filter.faults, packet_filter.repair, fix=fix)

    async def _parameters(self, fix: bool) -> list[Drift]:
        host = self._context.host_network
        return await _shared("parameter", "host", host.parameter_faults, host.repair_parameters, fix=fix)

    async def _sandboxes(self, containers: Iterable[str], fix: bool) -> list[Drift]:
        found = await asyncio.gather(*(self._sandbox_in_slot(container_id, fix) for container_id in containers))
        return [drift for each in found for drift in each]

    async def _sandbox_in_slot(self, container_id: str, fix: bool) -> list[Drift]:
        async with self._slow_slots if container_id in self._slow_sandboxes else self._slots:
            began = time.monotonic()
            drifts = await self._sandbox(container_id, fix)
            if any(drift.code == ABSENT for drift in drifts):
                drifts = await self._release(container_id, drifts)
        self._slow_sandboxes = {each for each in self._slow_sandboxes - {container_id} if self._records.sandbox(each)}
        if time.monotonic() - began > SLOW_REPAIR:
            self._slow_sandboxes.add(container_id)
        return drifts

    async def _sandbox(self, container_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._locked(container_id) as sandbox:
                if sandbox is None:
                    return []
                faults = await self._context.workers.run(self._diff, self._desired.sandbox(sandbox))
                drifts = [self._drift_of(sandbox, each) for each in faults]
                drifts = await _repaired(drifts, lambda: self._repair.sandbox(sandbox, faults), fix=fix)
                return [*drifts, *await self._files(self._records.sandbox(container_id) or sandbox, fix)]
        except Error as failure:
            subject = self._records.sandbox(container_id)
            return _unreadable("sandbox", container_id, failure, subject) if subject else []

    async def _release(self, container_id: str, drifts: list[Drift]) -> list[Drift]:
        """Remove a container whose namespace no longer exists; it has exited.

        Only a second check confirms this. A first check may run while another process moves the namespace from one
        place to another.
        """
        sandbox = self._records.sandbox(container_id)
        if sandbox and self.failing.knows(drifts[0].owner, ABSENT):
            return await _repaired(
                [drifts[0]._replace(problem=RELEASED)], lambda: self._removal.remove_exited(sandbox), fix=True
            )
        return drifts

    @asynccontextmanager
    async def _locked(self, container_id: str) -> AsyncIterator[Sandbox | None]:
        """Lock a sandbox and yield it, while no operation changes it; ``None`` when it is deleted or not ready."""
        attached = self._records.attachments_of_container(container_id)
        async with self._context.locks.hold(
            f"sandbox/{container_id}", *(f"endpoint/{each.endpoint_id}" for each in attached), max_wait=TIMEOUT
        ):
            sandbox = self._records.sandbox(container_id)
            now = self._records.attachments_of_container(container_id)
            same = {each.endpoint_id for each in attached} == {each.endpoint_id for each in now}
            yield sandbox if same and self._desired.is_stable(sandbox) else None

    def _diff(self, desired: DesiredSandbox) -> list[Fault]:
        state_reader = self._context.kernel.state_reader
        links: dict[str, Port] = {}
        ends = ((veth.host_link, veth.master, shaper_name(veth.host_link)) for _, veth in desired.links)
        for name in {name for names in ends for name in names}:
            links.update(state_reader.host(name).links)
        host = with_limits(NamespaceState(links, {}, {}, ()), [desired], self._context.kernel.limits)
        (inside,) = state_reader.inside([desired.sandbox.key])
        inside = with_settings(inside, desired, self._context.kernel.interface_settings)
        return [*diff_sandbox(desired, host, inside)]

    def _drift_of(self, sandbox: Sandbox, fault: Fault) -> Drift:
        if fault.attachment is None:
            return Drift("sandbox", sandbox.container_id, fault.problem, fault.reason, subject=sandbox)
        return Drift("backend", self._named(fault.attachment), fault.problem, fault.reason, subject=fault.attachment)

    def _named(self, attachment: Attachment) -> str:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        network = self._records.network(attachment.network_id)
        return f"{attachment.container_id} of {endpoint.name if endpoint else '?'}.{network.name if network else '?'}"

    async def _files(self, sandbox: Sandbox, fix: bool) -> list[Drift]:
        faults = await self._context.workers.run(self._context.host_files.check_job(sandbox))
        drifts = [Drift("file", fault.object, fault.problem, fault.reason, subject=sandbox) for fault in faults]
        return await _repaired(drifts, lambda: self._repair.files(sandbox), fix=fix)

    async def _orphaned_links(self, fix: bool) -> list[Drift]:
        claimed, links = self._desired.links(), self._context.kernel.links
        try:
            host = await self._context.workers.run(self._context.kernel.state_reader.host)
        except Error as failure:
            return _unreadable("stray", "links", failure)
        found = orphaned_links(host.links.values(), (claimed | self._desired.links()).__contains__)
        drifts = [Drift("stray", name, "the link belongs to no record", LEFT_OVER) for name in found]
        return await _repaired(drifts, lambda: self._context.workers.run(links.delete, found), fix=fix)


def _drifts_of(faults: Iterable[Fault]) -> list[Drift]:
    return [Drift(fault.what, fault.object, fault.problem, fault.reason) for fault in faults]


async def _shared(
    kind: str,
    name: str,
    read: Callable[[], Awaitable[Iterable[Fault]]],
    repair: Callable[[], Awaitable[object]],
    *,
    fix: bool,
) -> list[Drift]:
    """Check, and repair, what all networks share on the host.

    A failure to read it is reported, and does not stop other checks.
    """
    try:
        found = _drifts_of(await read())
    except Error as failure:
        return _unreadable(kind, name, failure)
    return await _repaired(found, repair, fix=fix)


def _unreadable(kind: str, name: str, failure: Error, subject: Network | Sandbox | None = None) -> list[Drift]:
    """Return the report on a candidate that could not be checked; it is tried again.

    A busy object is not reported: the lock's holder is changing it.
    """
    if failure.code == "busy":
        return []
    problem, reason = "it seems wrong, and cannot be looked at", "what is wrong with it is not repaired"
    return [Drift(kind, name, problem, reason, f"not repaired: {failure}", subject)]


async def _repaired(drifts: list[Drift], repair: Callable[[], Awaitable[object]], *, fix: bool) -> list[Drift]:
    """Repair, and return the differences with the result."""
    if not drifts or not fix:
        return drifts
    try:
        await repair()
    except Exception as failure:  # reported to the caller, and logged
        if not isinstance(failure, Error):
            _log.exception("repair of %s failed", drifts[0].object)
        reason, code = (failure.reason, failure.code) if isinstance(failure, Error) else (str(failure), "")
        return [drift._replace(done=f"not repaired: {reason}", code=code) for drift in drifts]
    return [drift._replace(done=REPAIRED) for drift in drifts]
