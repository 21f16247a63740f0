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

from sandnet.core.lifecycle.deletion import Removal
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.reconcile.backoff import Failing
from sandnet.core.reconcile.desired_state import Desired
from sandnet.core.reconcile.drift import REPAIRED, Drift
from sandnet.core.reconcile.flow_tables import ServiceFlows
from sandnet.core.reconcile.orphaned_links import strays
from sandnet.core.reconcile.sandbox_diff import Wanted, Wrong, sandbox_faults
from sandnet.core.reconcile.sandbox_repair import GONE, Mending
from sandnet.core.reconcile.scanner import Lookout, Suspects
from sandnet.core.reconcile.unheld_ports import PortHolding
from sandnet.core.reconcile.uplink_checks import Uplinks
from sandnet.core.runtime.context import Parts
from sandnet.errors import Error
from sandnet.firewall.base import Fault
from sandnet.kernel.types import Port, Space
from sandnet.model import Attachment, Network, Phase, Sandbox

_log = logging.getLogger(__name__)

AT_ONCE = 2
"""Sandboxes that are repaired at a time: half of the workers stay free for requests."""
LONG = 0.5
"""Seconds; a sandbox whose repair took longer, as root inside works against it, has others' repairs not wait for its
next one."""
PATIENCE = 1.0
"""Seconds to wait for what is busy: whoever holds it is changing it, and the next comparison looks again."""
NO_NAMES = "programs of the container do not find the names it was given, or whom to ask"
LET_GO = "the namespace that the container came with is gone for good: it was made to leave its networks"
NOT_OURS = "not repaired: who mounts /proc/sys must set it"
LEFT_OVER = "it bears our mark and no record claims it: it is left over, and keeps a place on its bridge"


class Reconcile:
    """Looks for drift, and repairs it."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes, removal: Removal, holding: PortHolding) -> None:
        self._parts = parts
        self.holding = holding
        self._removal = removal
        self._records = parts.records
        self._desired = Desired(parts)
        self._lookout = Lookout(parts, self._desired)
        self._uplinks = Uplinks(parts.kernel.sysctl, parts.kernel.survey, parts.workers, self._desired)
        self._service_flows = ServiceFlows(parts.kernel.firewall, parts.workers)
        self._mending = Mending(parts, sandboxes)
        self._turn = asyncio.Lock()
        self._quick, self._slow = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore()
        self._lingering: set[str] = set()
        """Container ids of sandboxes whose latest repair took long."""
        self.failing = Failing()
        """What could not be repaired."""

    async def run(self, *, fix: bool) -> list[Drift]:
        """Look at everything; what is wrong, and what was done about it.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell, or the daemon is stopping.
        """
        return await self._parts.operations.run(self._everything(fix))

    async def look(self, rest: float = 0.0) -> Suspects:
        """See :meth:`Lookout.everything`."""
        return await self._lookout.everything(rest)

    async def settle(self, suspects: Suspects, *, fix: bool) -> list[Drift]:
        """Look closely at the suspects; what is wrong with them, and what was done about it."""
        async with self._turn:
            told = await self._rules(fix) if suspects.rules else []
            told += await self._parameters(fix) if suspects.parameters else []
            for network_id in suspects.networks:
                told += await self._network(network_id, fix)
            if suspects.strays:
                told += await self._strays(fix)
        told += await self._boxes(suspects.sandboxes, fix)  # their own locks keep two from repairing one
        if fix:
            await self._announce(suspects, told)
        return told

    async def _everything(self, fix: bool) -> list[Drift]:
        suspects = await self.look()
        suspects.add(self.failing.known())  # one that is well by now is not to be told any more
        ports = await self.holding.retry() if fix else self.holding.faults()
        told = await self.settle(suspects, fix=fix)
        beyond_repair = [*await self._uplinks.drift(), *await self._service_flows.drift()]
        return [*told, *ports, *await self._unmet(told), *beyond_repair]

    async def _unmet(self, told: Sequence[Drift]) -> list[Drift]:
        """Return what drivers need of the host and others must set, as far as it was not found to differ already."""
        known = {drift.object for drift in told}
        found = [fault for driver in self._parts.drivers.values() for fault in await driver.unmet()]
        return [each._replace(done=NOT_OURS) for each in _told(found) if each.object not in known]

    async def tell_mended(self) -> None:
        """Tell of what verbs have put right meanwhile, as they could not go on without it."""
        told = [fault for driver in self._parts.drivers.values() for fault in driver.mended()]
        if told:
            await self._announce(Suspects(rules=True), [each._replace(done=REPAIRED) for each in _told(told)])

    async def _announce(self, suspects: Suspects, told: list[Drift]) -> None:
        """Log what became of it, tell of repairs as events, and remember what is left."""
        self.failing.judge(suspects, told)
        for drift in told:
            _log.warning("%s %s: %s: %s", drift.kind, drift.object, drift.problem, drift.done)
        await self._records.tell([drift.repair for drift in told if drift.done == REPAIRED])

    async def _network(self, network_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._parts.locks.hold(f"network/{network_id}", patience=PATIENCE):
                net = self._records.network(network_id)
                if net is None or net.phase is not Phase.READY:
                    return []
                host = await self._parts.workers.run(self._parts.kernel.survey.host, net.link)
                faults = await self._lookout.network_faults([net], host)
                told = [Drift("network", net.name, fault.problem, fault.reason, subject=net) for fault in faults]
                driver = self._parts.drivers[net.driver]
                return await _repaired(told, lambda: driver.create_network(net), fix=fix)
        except Error as failure:
            subject = self._records.network(network_id)
            return _unseen("network", subject.name, failure, subject) if subject else []

    async def _rules(self, fix: bool) -> list[Drift]:
        told: list[Drift] = []
        for driver in self._parts.drivers.values():
            told += await _shared("rules", driver.name, driver.rule_faults, driver.mend_rules, fix=fix)
        return told

    async def _parameters(self, fix: bool) -> list[Drift]:
        told: list[Drift] = []
        for driver in self._parts.drivers.values():
            told += await _shared("parameter", driver.name, driver.parameter_faults, driver.mend_parameters, fix=fix)
        return told

    async def _boxes(self, containers: Iterable[str], fix: bool) -> list[Drift]:
        found = await asyncio.gather(*(self._one_box(container_id, fix) for container_id in containers))
        return [drift for each in found for drift in each]

    async def _one_box(self, container_id: str, fix: bool) -> list[Drift]:
        async with self._slow if container_id in self._lingering else self._quick:
            began = time.monotonic()
            told = await self._box(container_id, fix)
            if any(drift.code == GONE for drift in told):
                told = await self._let_go(container_id, told)
        self._lingering = {each for each in self._lingering - {container_id} if self._records.sandbox(each)}
        if time.monotonic() - began > LONG:
            self._lingering.add(container_id)
        return told

    async def _box(self, container_id: str, fix: bool) -> list[Drift]:
        try:
            async with self._held(container_id) as box:
                if box is None:
                    return []
                wrong = await self._parts.workers.run(self._look_closely, self._desired.wanted(box))
                told = [self._told(box, each) for each in wrong]
                told = await _repaired(told, lambda: self._mending.sandbox(box, wrong), fix=fix)
                return [*told, *await self._files(self._records.sandbox(container_id) or box, fix)]
        except Error as failure:
            subject = self._records.sandbox(container_id)
            return _unseen("sandbox", container_id, failure, subject) if subject else []

    async def _let_go(self, container_id: str, told: list[Drift]) -> list[Drift]:
        """A container whose namespace is gone for good is dead. A second look says so: a first one may meet a moment
        in which somebody else moves it from one place to another."""
        box = self._records.sandbox(container_id)
        if box and self.failing.knows(told[0].owner, GONE):
            return await _repaired([told[0]._replace(problem=LET_GO)], lambda: self._removal.bury(box), fix=True)
        return told

    @asynccontextmanager
    async def _held(self, container_id: str) -> AsyncIterator[Sandbox | None]:
        """A sandbox that nobody changes meanwhile; ``None`` when it is gone, or half-way."""
        attached = self._records.attachments_of_container(container_id)
        async with self._parts.locks.hold(
            f"sandbox/{container_id}", *(f"endpoint/{each.endpoint_id}" for each in attached), patience=PATIENCE
        ):
            box = self._records.sandbox(container_id)
            now = self._records.attachments_of_container(container_id)
            same = {each.endpoint_id for each in attached} == {each.endpoint_id for each in now}
            yield box if same and self._desired.settled(box) else None

    def _look_closely(self, wanted: Wanted) -> list[Wrong]:
        survey = self._parts.kernel.survey
        links: dict[str, Port] = {}
        for name in {name for _, veth in wanted.links for name in (veth.host_link, veth.bridge)}:
            links.update(survey.host(name).links)
        (inside,) = survey.inside([wanted.box.key])
        return [*sandbox_faults(wanted, Space(links, {}, {}, ()), inside)]

    def _told(self, box: Sandbox, wrong: Wrong) -> Drift:
        if wrong.attachment is None:
            return Drift("sandbox", box.container_id, wrong.problem, wrong.reason, subject=box)
        return Drift("backend", self._named(wrong.attachment), wrong.problem, wrong.reason, subject=wrong.attachment)

    def _named(self, attachment: Attachment) -> str:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        network = self._records.network(attachment.network_id)
        return f"{attachment.container_id} of {endpoint.name if endpoint else '?'}.{network.name if network else '?'}"

    async def _files(self, box: Sandbox, fix: bool) -> list[Drift]:
        faults = await self._parts.workers.run(self._parts.files.faults(box))
        told = [Drift("file", fault.path, fault.problem, NO_NAMES, subject=box) for fault in faults]
        return await _repaired(told, lambda: self._mending.files(box), fix=fix)

    async def _strays(self, fix: bool) -> list[Drift]:
        claimed, links = self._desired.links(), self._parts.kernel.links
        try:
            host = await self._parts.workers.run(self._parts.kernel.survey.host)
        except Error as failure:
            return _unseen("stray", "links", failure)
        found = strays(host, claimed | self._desired.links())
        told = [Drift("stray", name, "the link belongs to no record", LEFT_OVER) for name in found]
        return await _repaired(told, lambda: self._parts.workers.run(links.delete, found), fix=fix)


def _told(faults: Iterable[Fault]) -> list[Drift]:
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
        found = _told(await look())
    except Error as failure:
        return _unseen(kind, name, failure)
    return await _repaired(found, repair, fix=fix)


def _unseen(kind: str, name: str, failure: Error, subject: Network | Sandbox | None = None) -> list[Drift]:
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
