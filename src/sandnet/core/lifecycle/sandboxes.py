"""Sandboxes: containers joined to endpoints.

The order of a join: record the intent, create or pin the namespace, plug the interface, elect the default route, write
the files, record success. A leave records its intent and runs in the reverse order, past errors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from msgspec.structs import replace

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.join_plan import (
    amend_sandbox,
    candidate_keys,
    check_host_network_exclusive,
    check_not_joined,
    plan_attachment,
    plan_sandbox,
)
from sandnet.core.lifecycle.liveness import identify
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.parent_updates import ParentUpdates
from sandnet.core.lifecycle.references import attached_id, begins
from sandnet.core.lifecycle.sandbox_setup import (
    create_namespace,
    detach_link,
    identified,
    raise_incomplete,
    set_up,
    tear_down,
    with_alias,
)
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import gather_both, roll_back
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.kernel.types import Veth
from sandnet.model import (
    Attachment,
    Endpoint,
    Interface,
    JoinSpec,
    Network,
    Origin,
    Phase,
    Process,
    Sandbox,
)

_log = logging.getLogger(__name__)


class Sandboxes:
    """The sandboxes of this host."""

    def __init__(self, context: Context, networks: Networks, endpoints: Endpoints) -> None:
        self._context = context
        self._records = context.records
        self._networks = networks
        self._endpoints = endpoints
        self._backends = Backends(context)
        self._routes = SandboxRoutes(context)
        self.parents = ParentUpdates(context)
        self._planned: set[str] = set()
        """Keys that are chosen for sandboxes without a record yet."""

    def list(self) -> list[Sandbox]:
        """Return the sandboxes that are ready, in creation order."""
        return [sandbox for sandbox in self._records.sandboxes() if sandbox.phase is Phase.READY]

    def find(self, ref: str) -> Sandbox:
        """Return the sandbox of the container with that id, unique id prefix, or last part of the sandbox key.

        Raises:
            Error: ``NOT_FOUND`` or ``INVALID`` (ambiguous).
        """
        sandbox = self._records.sandbox(ref)
        found = [sandbox] if sandbox and sandbox.phase is Phase.READY else []
        if sandbox is None and ref:
            found = [
                each for each in self.list() if begins(each.container_id, ref) or each.key.rpartition("/")[2] == ref
            ]
        if not found:
            raise not_found("sandbox", ref, "see the sandboxes there are with: sandnet sandbox ls")
        if len(found) > 1:
            candidates = ", ".join(each.container_id for each in found[:10])
            raise invalid(f"{ref!r} means more than one sandbox: {candidates}", "use the full id", "ambiguous")
        return found[0]

    def attachments(self, sandbox: Sandbox) -> Sequence[Attachment]:
        """Return the ready attachments of the sandbox, the first attached first."""
        found = self._records.attachments_of_container(sandbox.container_id)
        return [attachment for attachment in found if attachment.phase is Phase.READY]

    async def join(self, network_ref: str, endpoint_ref: str, spec: JoinSpec, *, many: bool = False) -> Sandbox:
        """Join a container to an endpoint; its first join creates its sandbox.

        Args:
            network_ref: the network, by id, name or unique id prefix.
            endpoint_ref: the endpoint, in the same way.
            spec: the container, and the options of the join.
            many: whether it may be an additional backend, beside others.

        Raises:
            Error: ``NOT_FOUND``, ``INVALID``, ``EXHAUSTED`` (bridge full), ``CONFLICT``; nothing is left behind.
        """
        network = self._networks.find(network_ref)
        endpoint = self._endpoints.find(network, endpoint_ref)
        return await self._context.operations.run(self._join(endpoint.id, spec, many))

    async def leave(self, network_ref: str, endpoint_ref: str, container_id: str) -> None:
        """Remove a container, by id or unique id prefix, from an endpoint; its last leave removes its sandbox.

        Raises:
            Error: ``NOT_FOUND``.
        """
        network = self._networks.find(network_ref)
        endpoint = self._endpoints.find(network, endpoint_ref)
        await self._context.operations.run(self._leave(endpoint.id, container_id))

    # Joining.

    async def _join(self, endpoint_id: str, spec: JoinSpec, many: bool) -> Sandbox:
        await self._finish_interrupted(endpoint_id, spec.container_id)
        async with self._hold(endpoint_id, spec.container_id):
            network, endpoint = self._usable(endpoint_id)
            attached = self._records.attachments_of_container(spec.container_id)
            known = self._records.sandbox(spec.container_id)
            existing = self._records.attachments_of_endpoint(endpoint.id)
            check_not_joined(endpoint, existing, spec.container_id, many=many)
            check_host_network_exclusive(known, network, attached, spec)
            process = await identify(self._context, spec.watch_pid or spec.pid)
            sandbox = amend_sandbox(known, spec, process) if known else await self._plan(network, spec, process)
            try:
                self._context.host_files.check(sandbox)
                sandbox = sandbox if known else await self._context.host_files.with_existing_paths(sandbox)
                sandbox, attachment = await self._intend(network, endpoint, sandbox, spec, known)
                # the driver's work outside of the namespace runs while the namespace is created
                join = self._context.driver(network.driver).join
                sandbox, veth = await gather_both(
                    self._with_namespace(sandbox, attachment), join(network, endpoint, attachment)
                )
                # the resolver opens its sockets in the namespace while the interface is plugged
                sandbox, _ = await gather_both(
                    self._connect(sandbox, with_alias(veth, endpoint, sandbox, attachment)),
                    self._context.resolver_sync.attachment_added(sandbox, attachment),
                )
                if existing:
                    await self._backends.rebalance(network, endpoint, attachment)
                sandbox = self.parents.with_pending(replace(sandbox, phase=Phase.READY), network, spec.parent_updates)
                # an orphaned endpoint has a container again
                found = [replace(endpoint, orphaned=False)] if endpoint.orphaned else []
                await self._records.commit(put=[sandbox, replace(attachment, phase=Phase.READY), *found])
            except BaseException:
                await roll_back(
                    f"join of {spec.container_id}", self._roll_back_join(endpoint.id, spec.container_id, known)
                )
                raise
            finally:
                self._planned.discard(sandbox.key)
        await self.parents.deliver(sandbox)
        return sandbox

    async def _finish_interrupted(self, endpoint_id: str, container_id: str) -> None:
        """Finish operations that failed half-way, so that they do not block the endpoint or the container.

        Under the locks no other join or leave is in progress, so an attachment that is not ready is a leftover.
        """
        records = self._records
        touching = [*records.attachments_of_endpoint(endpoint_id), *records.attachments_of_container(container_id)]
        for attachment in (each for each in touching if each.phase is not Phase.READY):
            async with self._hold(attachment.endpoint_id, attachment.container_id):
                current = records.attachment(attachment.container_id, attachment.endpoint_id)
                if current and current.phase is not Phase.READY:
                    await self.disconnect(current)
        async with self._context.locks.hold(f"sandbox/{container_id}"):
            sandbox = records.sandbox(container_id)
            if sandbox and sandbox.phase is not Phase.READY and not records.attachments_of_container(container_id):
                await self.tear_down(sandbox)

    async def _plan(self, network: Network, spec: JoinSpec, process: Process | None) -> Sandbox:
        """Plan a new sandbox, at the first key where no other program has pinned a namespace."""
        for key in candidate_keys(self._context.settings.sandbox_dir, spec.container_id):
            if self._records.sandbox_at(key) is not None or key in self._planned:
                continue
            self._planned.add(key)
            free = False
            try:
                free = await self._context.workers.run(self._context.kernel.namespaces.find, key) is None
            finally:
                if not free:
                    self._planned.discard(key)
            if free:
                return plan_sandbox(self._context, spec, network, key, process)
        raise AssertionError("unreachable: the keys do not end")

    async def _intend(
        self, network: Network, endpoint: Endpoint, sandbox: Sandbox, spec: JoinSpec, known: Sandbox | None
    ) -> tuple[Sandbox, Attachment]:
        """Record the intent of a join. A joined namespace is pinned first: its interfaces decide the new one's name."""
        taken = {a.interface for a in self._records.attachments_of_container(sandbox.container_id)}
        if known:
            await self._refuse_different_namespace(known, spec)
            await self._context.link_reaper.wait(sandbox.container_id)
        if sandbox.origin is Origin.JOINED:
            if not known:
                sandbox = await self._identified(sandbox, spec)
                await self._records.commit(put=[sandbox])  # before any change: a failure restores what was found
                pin = self._context.kernel.namespaces.pin
                await self._context.workers.run(pin, sandbox.key, path=spec.netns, pid=spec.pid, inode=sandbox.inode)
            taken |= set(await self._context.workers.run(self._context.kernel.namespaces.interfaces, sandbox.key))
        attachment, cursor = plan_attachment(self._context, network, endpoint, spec, taken)
        try:
            await self._records.commit(put=[sandbox, attachment], cursor=cursor)
        except BaseException:
            self._release(network, attachment)
            raise
        return sandbox, attachment

    async def _connect(self, sandbox: Sandbox, veth: Veth | None) -> Sandbox:
        """Set up an attachment in the sandbox and in the files; return the sandbox as it is then."""
        files = self._context.host_files.write_job(sandbox)
        return await self._context.workers.run(
            set_up, self._context.kernel, sandbox, veth, self._routes.of(sandbox), files
        )

    async def _with_namespace(self, sandbox: Sandbox, attachment: Attachment) -> Sandbox:
        if sandbox.phase is not Phase.CREATING or sandbox.origin is Origin.JOINED:
            return sandbox
        has_resolver = sandbox.origin is Origin.MADE and bool(attachment.interface)
        prepare = self._context.resolver_sync.prepare if has_resolver else None
        return await self._context.workers.run(create_namespace, self._context.kernel, sandbox, prepare)

    async def _identified(self, sandbox: Sandbox, spec: JoinSpec) -> Sandbox:
        """Return the record with the identity of the namespace to be joined; nothing is changed yet."""
        identify = self._context.kernel.namespaces.identify
        namespace = await self._context.workers.run(identify, path=spec.netns, pid=spec.pid)
        if namespace.inode == (await self._context.workers.run(identify)).inode:
            message = "that is the host's own network namespace"
            raise invalid(message, "join the network of type host for that", "host_namespace")
        sandbox = identified(sandbox, namespace)
        holder = next((b for b in self._records.sandboxes() if b.inode == sandbox.inode and b.key != sandbox.key), None)
        if holder:
            message = f"that namespace is the sandbox of container {holder.container_id} already"
            raise invalid(message, "join it as that container", "namespace_taken")
        return sandbox

    async def _refuse_different_namespace(self, known: Sandbox, spec: JoinSpec) -> None:
        if not spec.netns and not spec.pid:
            return
        identify = self._context.kernel.namespaces.identify
        if (await self._context.workers.run(identify, path=spec.netns, pid=spec.pid)).inode != known.inode:
            message = f"container {known.container_id} has another namespace for its sandbox: {known.key}"
            raise invalid(message, "leave its networks first, or name no namespace", "namespace_differs")

    async def _roll_back_join(self, endpoint_id: str, container_id: str, known: Sandbox | None) -> None:
        attachment = self._records.attachment(container_id, endpoint_id)
        sandbox = self._records.sandbox(container_id)
        if attachment:
            await self.disconnect(attachment)
        elif sandbox and not known:
            await self.tear_down(sandbox)
        if known and sandbox:
            await self._records.commit(put=[known])
            await self._context.workers.run(self._context.host_files.write_job(known))

    # Leaving.

    async def _leave(self, endpoint_id: str, ref: str) -> None:
        container_id = attached_id(
            ref,
            self._records.attachments_of_endpoint(endpoint_id),
            known=self._records.sandbox(ref) is not None,
        )
        async with self._hold(endpoint_id, container_id):
            attachment = self._records.attachment(container_id, endpoint_id)
            if attachment is None:
                raise self._not_attached(endpoint_id, container_id)
            await self.disconnect(attachment)

    async def drop(self, attachment: Attachment) -> None:
        """Take the locks and disconnect an attachment; do nothing when it has been removed."""
        async with self._hold(attachment.endpoint_id, attachment.container_id):
            current = self._records.attachment(attachment.container_id, attachment.endpoint_id)
            if current:
                await self.disconnect(current)

    async def disconnect(self, attachment: Attachment) -> None:
        """Remove an attachment in any phase, and the sandbox with its last one.

        Raises:
            Error: ``INTERNAL`` with all failures; the records stay, and the same call finishes the work.
        """
        attachment = replace(attachment, phase=Phase.REMOVING)
        sandbox = self._records.sandbox(attachment.container_id)
        last = len(self._records.attachments_of_container(attachment.container_id)) == 1
        if sandbox and last:
            sandbox = replace(sandbox, phase=Phase.REMOVING)
        await self._records.commit(put=[attachment, sandbox] if sandbox and last else [attachment])
        await self._context.resolver_sync.attachments_removed([attachment])
        network, endpoint = self._records.network(attachment.network_id), self._records.endpoint(attachment.endpoint_id)
        if network and endpoint:
            await self._fail_over(network, endpoint, attachment)
        if sandbox and last:
            await self.tear_down(sandbox, attachment)
        elif sandbox:
            await self._unplug(sandbox, attachment)
        else:
            await self._records.commit(delete=[attachment])
        if network:
            self._release(network, attachment)

    async def _fail_over(self, network: Network, endpoint: Endpoint, attachment: Attachment) -> None:
        try:
            await self._backends.fail_over(network, endpoint, attachment)
        except Error as failure:  # the backend is removed nevertheless; the next change of the service repairs the rest
            _log.warning("service %s still knows %s: %s", endpoint.name, attachment.container_id, failure)

    def _release(self, network: Network, attachment: Attachment) -> None:
        if attachment.leased:
            self._context.leases.release(network, attachment.address, attachment.address_ipv6)

    async def _unplug(self, sandbox: Sandbox, attachment: Attachment) -> None:
        shared = self._shared(attachment)
        failures = await self._context.workers.run(
            detach_link, self._context.kernel, sandbox, attachment, shared, self._routes.of(sandbox)
        )
        self._context.link_reaper.schedule(sandbox.container_id)
        raise_incomplete(f"leave of {sandbox.container_id}", failures)
        await self._leave_network(attachment)
        await self._records.commit(delete=[attachment])
        await self._refresh_files(sandbox)

    async def _refresh_files(self, sandbox: Sandbox) -> None:
        """Refresh the files: names are removed, and without an IPv6 address, IPv6 name servers are of no use."""
        try:
            digests = await self._context.workers.run(self._context.host_files.refresh_job(sandbox))
        except Error as failure:  # the leave itself is done
            _log.warning("files of %s are stale: %s", sandbox.container_id, failure)
            return
        if (after := digests.on(sandbox)) != sandbox:
            await self._records.commit(put=[after])

    async def tear_down(self, sandbox: Sandbox, last: Attachment | None = None) -> None:
        """Remove a sandbox, with its last attachment if it has one."""
        files = self._context.host_files.remove_job(sandbox)
        shared = self._shared(last) if last else ()
        failures = await self._context.workers.run(tear_down, self._context.kernel, sandbox, last, shared, files)
        self._context.link_reaper.schedule(sandbox.container_id)
        raise_incomplete(f"removal of sandbox {sandbox.container_id}", failures)
        if last:
            await self._leave_network(last)
        await self._records.commit(delete=[last, sandbox] if last else [sandbox])

    async def _leave_network(self, attachment: Attachment) -> None:
        """Undo the driver's part of the join, once the link is down: until then the driver filters what it sends."""
        network = self._records.network(attachment.network_id)
        if network:
            await self._context.drivers[network.driver].leave(network, [attachment])

    def _shared(self, attachment: Attachment) -> Sequence[Interface]:
        """Return the endpoint's addresses, if the interface has others of its own."""
        endpoint = self._records.endpoint(attachment.endpoint_id)
        if endpoint is None or not attachment.leased:
            return ()
        return [interface for interface in (endpoint.address, endpoint.address_ipv6) if interface]

    async def ensure(self, sandbox: Sandbox, attachment: Attachment) -> None:
        """Set up an attachment again, by the same steps that created it."""
        network, endpoint = self._usable(attachment.endpoint_id)
        veth = await self._context.driver(network.driver).join(network, endpoint, attachment)
        after = await self._connect(sandbox, with_alias(veth, endpoint, sandbox, attachment))
        if after != sandbox:
            await self._records.commit(put=[after])

    def _usable(self, endpoint_id: str) -> tuple[Network, Endpoint]:
        endpoint = self._records.endpoint(endpoint_id)
        if endpoint is None or endpoint.phase is not Phase.READY:
            raise not_found("endpoint", endpoint_id)
        return self._networks.open(endpoint.network_id), endpoint

    def _not_attached(self, endpoint_id: str, container_id: str) -> Error:
        endpoint = self._records.endpoint(endpoint_id)
        name = endpoint.name if endpoint else endpoint_id
        attached = [a.container_id for a in self._records.attachments_of_endpoint(endpoint_id)]
        hint = f"attached: {', '.join(attached)}" if attached else "no container is attached to it"
        return Error(Kind.NOT_FOUND, f"container {container_id} is not attached to {name}", hint, "not_attached")

    def _hold(self, endpoint_id: str, container_id: str) -> AbstractAsyncContextManager[None]:
        return self._context.locks.hold(f"endpoint/{endpoint_id}", f"sandbox/{container_id}")
