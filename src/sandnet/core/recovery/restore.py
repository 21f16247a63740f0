"""Restore at start-up: bring the kernel into line with the records, by the same steps that created the objects.

Objects that a crash left half-way (any phase but ``ready``) are removed by the steps that roll back a failed request.
Objects that are ready and differ from their records are created again. Links made by the daemon that belong to no
record are deleted. Objects that are in order are found in bulk and not touched: a check costs a tenth of a creation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import nullcontext
from functools import partial

from msgspec.structs import replace

from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.liveness import has_ended
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.host_file_types import Digests
from sandnet.core.reconcile.orphaned_links import is_ours
from sandnet.core.reconcile.scanner import CHUNK, Candidates, Scanner
from sandnet.core.reconcile.unheld_ports import PortHolding
from sandnet.core.runtime.context import Context
from sandnet.errors import Error
from sandnet.model import Attachment, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.link_names import port_of
from sandnet.model.sandbox import EARLIER_BOOT

_log = logging.getLogger(__name__)


class Restore:
    """Brings the host into line with the records, and takes everything down."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        networks: Networks,
        endpoints: Endpoints,
        sandboxes: Sandboxes,
        removal: Deletion,
        holding: PortHolding,
    ) -> None:
        self._context = context
        self._holding = holding
        self._records = context.records
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes
        self._removal = removal
        self._desired = scanner.desired
        self._scanner = scanner
        self.problems: list[str] = []
        """What could not be restored, as texts for health."""

    async def run(self) -> None:
        """Run once, after the records are loaded and before the first request."""
        with self._context.drivers.hurried():
            await self._run()

    async def _run(self) -> None:
        await self._begin()
        await self._start_host_network()
        candidates = await self._scan()
        await self._drop_exited_sandboxes(candidates.sandboxes)
        await self._remove_interrupted()
        networks = map(self._records.network, candidates.networks)
        await self._run_all("network", (self._restore_network(net) for net in networks if net))
        published = (endpoint for endpoint in self._records.endpoints() if endpoint.ports)
        await self._run_all("endpoint", map(self._rebind, published))
        broken = (each for each in self._records.attachments() if each.container_id in candidates.sandboxes)
        await self._run_all("attachment", map(self._restore_attachment, broken))
        await self._refresh_files()
        await self._run_all("parents", map(self._sandboxes.parents.deliver, self._records.sandboxes()))
        await self._delete_orphaned_links()

    async def _scan(self) -> Candidates:
        """Return the objects to create again; all of them, if the kernel does not return its state.

        Objects that are not ready count as differing.
        """
        try:
            found = await self._scanner.links()
        except Error as failure:
            self._report("looking", failure)
            networks = (net.id for net in self._desired.networks())
            return Candidates(networks, (sandbox.container_id for sandbox in self._records.sandboxes()))
        stable = {sandbox.container_id for sandbox in self._desired.sandboxes()}
        found.sandboxes |= {sandbox.container_id for sandbox in self._records.sandboxes()} - stable
        return found

    async def remove_everything(self) -> None:
        """Remove all objects that the records name, and what the drivers prepared."""
        await self._begin()
        await self._start_host_network()
        await self._disconnect(self._records.attachments())
        await self._run_all("sandbox", map(self._sandboxes.tear_down, self._records.sandboxes()))
        remove_endpoint = partial(self._remove_endpoint, force=True)
        await self._run_all("endpoint", map(remove_endpoint, self._records.endpoints()))
        await self._run_all("network", map(partial(self._networks.remove, force=True), self._records.networks()))
        await self._delete_orphaned_links()
        await self._context.link_reaper.wait()
        await self._run_all("driver", [self._context.host_network.stop()])
        await self._context.boot_id.forget()

    async def _begin(self) -> None:
        """Record the boot. After a reboot, mark all inode numbers as outdated: other namespaces may have them now."""
        invalidated = [replace(sandbox, inode=EARLIER_BOOT) for sandbox in self._records.sandboxes()]
        if invalidated and await self._context.boot_id.has_rebooted():
            await self._records.commit(put=invalidated)
        await self._context.boot_id.record()

    async def _disconnect(self, attachments: Iterable[Attachment]) -> None:
        """Remove attachments: containers in parallel, those of one container in order, the last attached first."""
        by_container: dict[str, list[Attachment]] = {}
        for attachment in attachments:
            by_container.setdefault(attachment.container_id, []).insert(0, attachment)
        await self._run_all("attachment", map(self._disconnect_in_order, by_container.values()))

    async def _disconnect_in_order(self, attachments: Iterable[Attachment]) -> None:
        for attachment in attachments:
            await self._sandboxes.drop(attachment)

    async def _start_host_network(self) -> None:
        await self._run_all(
            "host network",
            [self._context.host_network.start(self._desired.networks_with_links, self._desired.linked_networks)],
        )

    async def _drop_exited_sandboxes(self, candidates: Collection[str]) -> None:
        """Remove the sandboxes of exited containers; after a reboot these are all, as no namespace is left.

        Args:
            candidates: containers whose namespace may not exist; any other can only have exited with its process.
        """
        uncertain = [
            sandbox
            for sandbox in self._records.sandboxes()
            if sandbox.auto_remove or sandbox.container_id in candidates
        ]
        exited = [sandbox for sandbox in uncertain if not await self._is_running(sandbox)]
        await self._run_all("sandbox", map(self._removal.remove_exited, exited))
        left = [sandbox for sandbox in self._records.sandboxes() if self._is_unused(sandbox)]
        await self._run_all("sandbox", map(self._sandboxes.tear_down, left))

    def _is_unused(self, sandbox: Sandbox) -> bool:
        return not self._records.attachments_of_container(sandbox.container_id)

    async def _is_running(self, sandbox: Sandbox) -> bool:
        if sandbox.phase is not Phase.READY:
            return False
        if sandbox.origin is Origin.EXTERNAL:
            return await self._has_link(sandbox)
        if sandbox.origin is Origin.GUEST:
            return not await self._has_ended(sandbox)
        try:
            pinned = await self._context.workers.run(self._context.kernel.namespaces.find, sandbox.key)
        except Error as failure:  # unknown: a sandbox that may be running is kept
            self._report("sandbox", failure)
            return True
        if pinned is None or pinned.inode != sandbox.inode:
            return False
        return not await self._has_ended(sandbox)

    async def _has_ended(self, sandbox: Sandbox) -> bool:
        """Return whether the process whose exit is the container's has ended."""
        watched = sandbox.process if sandbox.auto_remove else None
        return watched is not None and await self._context.workers.run(has_ended, self._context.kernel, watched)

    async def _has_link(self, sandbox: Sandbox) -> bool:
        """Return whether a link of a container engine's sandbox exists: it lives as long as the container."""
        names = {each.host_link for each in self._records.attachments_of_container(sandbox.container_id)}
        return any(link.name in names for link in await self._context.workers.run(self._context.kernel.links.list))

    async def _remove_interrupted(self) -> None:
        """Remove all objects that are not ready, and those on them.

        The deletion of a network or an endpoint may include all it has.
        """
        networks = {net.id: net for net in self._records.networks() if net.phase is not Phase.READY}
        endpoints = {ep.id: ep for ep in self._records.endpoints() if ep.network_id in networks or self._is_left(ep)}
        attachments = self._records.attachments()
        await self._disconnect(a for a in attachments if a.phase is not Phase.READY or a.endpoint_id in endpoints)
        await self._run_all("endpoint", map(self._remove_interrupted_endpoint, endpoints.values()))
        await self._run_all("network", map(self._networks.remove, networks.values()))

    async def _remove_interrupted_endpoint(self, endpoint: Endpoint) -> None:
        """Remove an endpoint; the copy of another host's on this host alone: it may count there."""
        cluster = self._context.cluster
        shared = cluster.view.endpoint(endpoint.id) if cluster else None
        is_copy = cluster is not None and shared is not None and shared.host != cluster.membership.name
        with cluster.shared.only_here(endpoint.id) if cluster and is_copy else nullcontext():
            await self._remove_endpoint(endpoint)

    def _is_left(self, endpoint: Endpoint) -> bool:
        """Return whether an interrupted operation left the endpoint, which no one would delete."""
        if endpoint.phase is not Phase.READY:
            return True
        attached = self._records.attachments_of_endpoint(endpoint.id)
        return bool(endpoint.owner) and all(each.phase is not Phase.READY for each in attached)

    async def _remove_endpoint(self, endpoint: Endpoint, *, force: bool = False) -> None:
        await self._endpoints.remove(self._networks.get(endpoint.network_id), endpoint, force=force)

    async def _restore_network(self, network: Network) -> None:
        await self._context.drivers.working(network.driver).create_network(network)

    async def _rebind(self, endpoint: Endpoint) -> None:
        await self._holding.hold(endpoint)

    async def _restore_attachment(self, attachment: Attachment) -> None:
        sandbox = self._records.sandbox(attachment.container_id)
        if sandbox:
            await self._sandboxes.ensure(sandbox, attachment)

    async def _refresh_files(self) -> None:
        """Write the files that differ, from the records or from the host's own files as they are now."""
        sandboxes = self._desired.sandboxes()
        for start in range(0, len(sandboxes), CHUNK):
            chunk = sandboxes[start : start + CHUNK]
            jobs = [self._context.host_files.refresh_job(sandbox) for sandbox in chunk]
            written = await self._context.workers.run(_gather_failures, jobs)
            for sandbox, digests in zip(chunk, written, strict=True):
                if isinstance(digests, Error):
                    self._report("files", digests)
                elif (after := digests.on(sandbox)) != sandbox:
                    await self._records.commit(put=[after])

    async def _delete_orphaned_links(self) -> None:
        links = self._context.kernel.links
        nets = {link for net in self._records.networks() for link in net.links}
        claimed = nets | {attachment.host_link for attachment in self._records.attachments()}
        found = await self._context.workers.run(links.list)
        unclaimed = [link.name for link in found if is_ours(link) and port_of(link.name) not in claimed]
        if unclaimed:
            _log.info("sweeping links that no record claims: %s", ", ".join(unclaimed))
            await self._run_all("stray links", [self._context.workers.run(links.delete, unclaimed)])

    async def _run_all(self, what: str, steps: Iterable[Awaitable[object]]) -> None:
        """Run the steps together; report a failure and continue with the others."""
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, Exception):
                self._report(what, result)

    def _report(self, what: str, failure: Exception) -> None:
        problem = f"{what}: {failure}"
        self.problems.append(problem)
        _log.warning("restore: %s", problem, exc_info=None if isinstance(failure, Error) else failure)


def _gather_failures(jobs: Iterable[Callable[[], Digests]]) -> list[Digests | Error]:
    """Run the jobs; return the result of each, or its failure."""
    done: list[Digests | Error] = []
    for job in jobs:
        try:
            done.append(job())
        except Error as failure:
            done.append(failure)
    return done
