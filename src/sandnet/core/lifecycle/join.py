"""Joins: attach a container to an endpoint; its first join makes its sandbox.

The order: record the intent, pin the namespace, plug the interface, elect the default route, write the files, record
success. All that happens in the kernel and in files is one job on a worker thread. In the meantime the resolver learns
the names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.lifecycle.join_plan import (
    amend_sandbox,
    candidate_keys,
    check_host_network_exclusive,
    check_interface_options,
    check_not_joined,
    check_tap,
    moved_link,
    named_as_supplied,
    plan_attachment,
    plan_sandbox,
    refuse_claimed,
    refuse_outside,
)
from sandnet.core.lifecycle.leave import Leaves
from sandnet.core.lifecycle.liveness import identify
from sandnet.core.lifecycle.parent_updates import ParentUpdates
from sandnet.core.lifecycle.sandbox_setup import (
    inspect_joined,
    is_free,
    set_up,
    set_up_external,
    set_up_prepared,
)
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import alongside, roll_back
from sandnet.core.state.leased_addresses import check_lease, leasing, with_lease
from sandnet.drivers.base import ExternalDriver, LoadBalancing
from sandnet.errors import Error, invalid
from sandnet.firewall.base import Step
from sandnet.kernel.namespace_protocols import KEY_TAKEN
from sandnet.kernel.types import InspectedNamespace, MovedLink, PreparedSandbox, Veth
from sandnet.model import Attachment, Endpoint, JoinSpec, Network, Origin, Phase, Process, Sandbox
from sandnet.model.link_alias import attachment_alias
from sandnet.model.supplied_link import supplied_alias

T = TypeVar("T")


class Joins:
    """The joins of this host. The callers hold the locks of the endpoint and of the sandbox."""

    def __init__(self, context: Context, leaves: Leaves, parents: ParentUpdates) -> None:
        self._context = context
        self._records = context.records
        self._leaves = leaves
        self._parents = parents
        self._backends = Backends(context)
        self._routes = SandboxRoutes(context.records)
        self._planned: set[str] = set()
        """Keys that are chosen for sandboxes without a record yet."""

    async def join(self, network: Network, endpoint: Endpoint, spec: JoinSpec, *, many: bool) -> Sandbox:
        """Attach the container to the endpoint.

        Raises:
            Error: as :meth:`Sandboxes.join`.
        """
        attached = self._records.attachments_of_container(spec.container_id)
        known = self._records.sandbox(spec.container_id)
        existing = self._records.attachments_of_endpoint(endpoint.id)
        driver = self._context.drivers.working(network.driver)
        external = isinstance(driver, ExternalDriver)
        balances = isinstance(driver, LoadBalancing) and not endpoint.additional_addresses
        shares = not (endpoint.address or network.leases_addresses) or balances
        remote = self._records.remote.of_endpoint(endpoint.id)
        shareable = shares and spec.tap is None
        check_not_joined(endpoint, existing, remote, spec.container_id, many=many and shares, shareable=shareable)
        check_host_network_exclusive(known, network, attached, spec)
        process = await identify(self._context.kernel, self._context.workers, spec.watch_pid or spec.pid)
        check_interface_options(network, endpoint, spec, known, external=external)
        if external:
            refuse_outside(network, spec, known)
        if spec.external_key or (known and known.origin is Origin.EXTERNAL):
            return await self._join_external(network, endpoint, spec, known)
        is_machine = any(each.tap for each in attached)
        if spec.tap or is_machine:
            check_tap(network, endpoint, spec, attached, existing)
        if (spec.tap and not spec.tap.inside) or (known and known.origin is Origin.GUEST):
            return await self._join_guest(network, endpoint, spec, known, process)
        if known:
            return await self._join_known(network, endpoint, spec, known, process)
        sandbox = plan_sandbox(self._records, self._context.settings.files_dir, spec, network, process)
        self._context.host_files.check(sandbox)
        sandbox = await self._context.host_files.with_existing_paths(sandbox)
        usual = not external and not spec.interface and not spec.tap
        if sandbox.origin is Origin.MADE and endpoint.mac and usual:
            return await self._join_made(network, endpoint, spec, sandbox)
        return await self._join_found(network, endpoint, spec, sandbox)

    # In a new namespace.

    async def _join_made(self, network: Network, endpoint: Endpoint, spec: JoinSpec, sandbox: Sandbox) -> Sandbox:
        """Join in a new namespace, at the first key where no other program has pinned one."""
        pool, keys = self._context.kernel.pool, candidate_keys(self._context.settings.sandbox_dir, spec.container_id)
        while True:
            prepared = pool.take()
            if prepared is None:
                prepared = await self._context.workers.run(pool.prepare)
            try:
                key = next(key for key in keys if not self._is_planned(key))  # recorded before anything is awaited
                at_key = replace(sandbox, key=key, inode=prepared.inode)
                return await self._join_prepared(network, endpoint, spec, at_key, prepared)
            except Error as failure:
                if failure.code != KEY_TAKEN:
                    raise
            finally:
                pool.discard(prepared)

    async def _join_prepared(
        self, network: Network, endpoint: Endpoint, spec: JoinSpec, sandbox: Sandbox, prepared: PreparedSandbox
    ) -> Sandbox:
        """Join in a prepared namespace. Its record exists before it is pinned, so no other one is taken for it."""
        attachment, cursor = plan_attachment(
            self._records, self._context.leases, network, endpoint, spec, (), prepared.host_link
        )
        await self._commit_intent(network, sandbox, attachment, cursor)
        try:
            veth = self._link(network, endpoint, sandbox, attachment)
            files, routes = self._context.host_files.write_job(sandbox), self._routes.default(sandbox)
            job = partial(set_up_prepared, self._context.kernel, sandbox, prepared, veth, routes, files)
            self._context.resolver_sync.adopt_sockets(sandbox, prepared)
            return await self._complete(network, endpoint, sandbox, attachment, spec, job)
        except BaseException:
            await self._roll_back(endpoint, spec, None)
            raise

    # In a namespace that exists.

    async def _join_found(self, network: Network, endpoint: Endpoint, spec: JoinSpec, sandbox: Sandbox) -> Sandbox:
        """Join as the first of a container whose namespace exists, or gets no link."""
        kernel = self._context.kernel
        look: Callable[[str], InspectedNamespace | bool | None] = partial(is_free, kernel)
        if sandbox.origin is Origin.JOINED:
            look = partial(inspect_joined, kernel, path=spec.netns, pid=spec.pid)
        key, found = await self._free_key(spec.container_id, look)
        sandbox = replace(sandbox, key=key)
        try:
            if not isinstance(found, InspectedNamespace):
                return await self._join_in(network, endpoint, spec, sandbox, ())
            # recorded before any change: a failure restores what was found
            sandbox = replace(sandbox, inode=found.inode, loopback_was_up=found.loopback_up)
            self._refuse_taken_namespace(sandbox)
            pin = partial(kernel.namespaces.pin, key, path=spec.netns, pid=spec.pid, inode=found.inode)
            return await self._join_in(network, endpoint, spec, sandbox, found.interfaces, pin)
        except BaseException:
            await self._roll_back(endpoint, spec, None)
            raise
        finally:
            self._planned.discard(sandbox.key)

    async def _join_known(
        self, network: Network, endpoint: Endpoint, spec: JoinSpec, known: Sandbox, process: Process | None
    ) -> Sandbox:
        """Join a container that has a sandbox."""
        sandbox = amend_sandbox(known, spec, process)
        self._context.host_files.check(sandbox)
        await self._refuse_different_namespace(known, spec)
        await self._context.link_reaper.wait(sandbox.container_id)
        taken = {each.interface for each in self._records.attachments_of_container(sandbox.container_id)}
        try:
            if sandbox.origin is Origin.JOINED:
                taken |= set(await self._context.workers.run(self._context.kernel.namespaces.interfaces, sandbox.key))
            return await self._join_in(network, endpoint, spec, sandbox, taken)
        except BaseException:
            await self._roll_back(endpoint, spec, known)
            raise

    async def _join_external(
        self, network: Network, endpoint: Endpoint, spec: JoinSpec, known: Sandbox | None
    ) -> Sandbox:
        """Make a link whose inner end stays on the host: a container engine moves it into the container's namespace."""
        if known and (known.origin is not Origin.EXTERNAL or known.key != spec.external_key):
            message = f"container {spec.container_id} has another namespace for its sandbox: {known.key}"
            raise invalid(message, "leave its networks first", "namespace_differs")
        sandbox = known or plan_sandbox(self._records, "", spec, network, None)
        try:
            return await self._join_in(network, endpoint, spec, sandbox, ())
        except BaseException:
            await self._roll_back(endpoint, spec, known)
            raise

    async def _join_guest(
        self, network: Network, endpoint: Endpoint, spec: JoinSpec, known: Sandbox | None, process: Process | None
    ) -> Sandbox:
        """Make a tap for a virtual machine."""
        if known:
            await self._context.link_reaper.wait(known.container_id)
            sandbox = amend_sandbox(known, spec, process)
        else:
            sandbox = plan_sandbox(self._records, "", spec, network, process)
            key, _ = await self._free_key(spec.container_id, partial(is_free, self._context.kernel))
            sandbox = replace(sandbox, key=key)
        taken = {each.interface for each in self._records.attachments_of_container(sandbox.container_id)}
        try:
            return await self._join_in(network, endpoint, spec, sandbox, taken)
        except BaseException:
            await self._roll_back(endpoint, spec, known)
            raise
        finally:
            self._planned.discard(sandbox.key)

    async def _join_in(
        self,
        network: Network,
        endpoint: Endpoint,
        spec: JoinSpec,
        sandbox: Sandbox,
        taken: Collection[str],
        pin: Callable[[], object] | None = None,
    ) -> Sandbox:
        attachment, cursor = plan_attachment(self._records, self._context.leases, network, endpoint, spec, taken)
        if isinstance(self._context.drivers.working(network.driver), ExternalDriver):
            attachment = replace(attachment, host_link="", interface=spec.interface)
        await self._commit_intent(network, sandbox, attachment, cursor)
        if pin:  # before the resolver, or a plugin, looks into the namespace
            await self._context.workers.run(pin)
        attachment = await self._supplied(network, endpoint, sandbox, attachment, taken)
        job = self._set_up_job(network, endpoint, sandbox, attachment)
        return await self._complete(network, endpoint, sandbox, attachment, spec, job)

    async def _supplied(
        self,
        network: Network,
        endpoint: Endpoint,
        sandbox: Sandbox,
        attachment: Attachment,
        taken: Collection[str],
    ) -> Attachment:
        """Ask the network's plugin, if it has one, for the link, and record the answer before the link is moved."""
        driver = self._context.drivers.working(network.driver)
        if not isinstance(driver, ExternalDriver):
            return attachment
        again = attachment.supplied is not None
        supply = await driver.supply_link(network, endpoint, sandbox.key, again=again)
        if supply is None:
            return attachment
        refuse_claimed(self._records, supply)
        attachment = named_as_supplied(attachment, supply, taken)
        await self._records.commit(put=[attachment])
        return attachment

    async def ensure(self, network: Network, endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment) -> None:
        """Set up an attachment again, by the same steps that made it."""
        if attachment.supplied and not await self._is_placed(sandbox, attachment):
            attachment = await self._supplied(network, endpoint, sandbox, attachment, ())
        job = self._set_up_job(network, endpoint, sandbox, attachment)
        driver, run = self._context.drivers.working(network.driver), self._context.workers.run
        after = await driver.join(network, endpoint, attachment, lambda step: run(job, step))
        if after != sandbox:
            await self._records.commit(put=[after])

    async def _is_placed(self, sandbox: Sandbox, attachment: Attachment) -> bool:
        is_placed = self._context.kernel.supplied_links.is_placed
        return await self._context.workers.run(is_placed, sandbox.key, supplied_alias(attachment.endpoint_id))

    def _set_up_job(
        self, network: Network, endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment
    ) -> Callable[[Step], Sandbox]:
        veth = self._link(network, endpoint, sandbox, attachment)
        is_new = attachment.phase is Phase.CREATING
        if sandbox.is_outside:
            return partial(set_up_external, self._context.kernel, sandbox, veth, make=is_new)
        link: Veth | MovedLink | None = veth or moved_link(attachment)
        files, routes = self._context.host_files.write_job(sandbox), self._routes.of(sandbox)
        return partial(set_up, self._context.kernel, sandbox, link, routes, files, is_new=is_new)

    def _link(self, network: Network, endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment) -> Veth | None:
        """Return the link of the attachment, with the alias that describes it."""
        veth = self._context.drivers.working(network.driver).link(network, endpoint, attachment)
        return veth and veth._replace(alias=attachment_alias(endpoint, sandbox, attachment))

    async def _free_key(self, container_id: str, look: Callable[[str], T | None]) -> tuple[str, T]:
        """Plan a new sandbox at the first key where no other program has pinned a namespace; return that key.

        Args:
            container_id: the container.
            look: a job that looks whether a key is free; what it returns is returned, too. ``None``: it is not.
        """
        for key in candidate_keys(self._context.settings.sandbox_dir, container_id):
            if self._is_planned(key):
                continue
            self._planned.add(key)
            found = None
            try:
                found = await self._context.workers.run(look, key)
            finally:
                if found is None:
                    self._planned.discard(key)
            if found is not None:
                return key, found
        raise AssertionError("unreachable: the keys do not end")

    def _is_planned(self, key: str) -> bool:
        return self._records.sandbox_at(key) is not None or key in self._planned

    def _refuse_taken_namespace(self, sandbox: Sandbox) -> None:
        holder = next((each for each in self._records.sandboxes(sandbox.inode) if each.key != sandbox.key), None)
        if holder:
            message = f"that namespace is the sandbox of container {holder.container_id} already"
            raise invalid(message, "join it as that container", "namespace_taken")

    async def _refuse_different_namespace(self, known: Sandbox, spec: JoinSpec) -> None:
        if not spec.netns and not spec.pid:
            return
        identify = self._context.kernel.namespaces.identify
        if (await self._context.workers.run(identify, path=spec.netns, pid=spec.pid)).inode != known.inode:
            message = f"container {known.container_id} has another namespace for its sandbox: {known.key}"
            raise invalid(message, "leave its networks first, or name no namespace", "namespace_differs")

    # In both.

    async def _commit_intent(
        self, network: Network, sandbox: Sandbox, attachment: Attachment, cursor: tuple[str, str] | None
    ) -> None:
        try:
            await self._records.commit(put=[sandbox, attachment], cursor=cursor)
        except BaseException:
            if attachment.leased:
                self._context.leases.cancel(network, attachment.address, attachment.address_ipv6)
            raise

    async def _complete(
        self,
        network: Network,
        endpoint: Endpoint,
        sandbox: Sandbox,
        attachment: Attachment,
        spec: JoinSpec,
        job: Callable[[Step], Sandbox],
    ) -> Sandbox:
        """Run the job that sets up the sandbox, while the resolver learns the names; then record success."""
        naming = self._context.resolver_sync
        early = not naming.needs_namespace(sandbox)
        async with alongside(naming.attachment_added(sandbox, attachment)) if early else nullcontext():
            sandbox = await self._backends.join(network, endpoint, attachment, job)
            if network.leases_addresses:
                sandbox, endpoint, attachment = await self._leased(network, endpoint, sandbox, attachment)
            if not early or network.leases_addresses:
                await naming.attachment_added(sandbox, attachment)
            sandbox = self._parents.with_pending(replace(sandbox, phase=Phase.READY), network, spec.parent_updates)
            # an orphaned endpoint has a container again
            found = [replace(endpoint, orphaned=False)] if endpoint.orphaned else []
            await self._records.commit(put=[sandbox, replace(attachment, phase=Phase.READY), *found])
        return sandbox

    async def _leased(
        self, network: Network, endpoint: Endpoint, sandbox: Sandbox, attachment: Attachment
    ) -> tuple[Sandbox, Endpoint, Attachment]:
        """Wait for an address from the network's server, record it, and set up the interface with it."""
        driver = leasing(self._context.drivers.working(network.driver))
        lease = await driver.obtain_lease(network, endpoint, attachment, sandbox)
        check_lease(self._records, network, attachment, lease)
        endpoint, attachment = with_lease(endpoint, attachment, lease)
        await self._records.commit(put=[endpoint, attachment])
        self._context.host_files.changed(endpoint, network)  # the job writes them
        job = self._set_up_job(network, endpoint, sandbox, attachment)
        sandbox = await self._backends.join(network, endpoint, attachment, job)
        await self._context.resolver_sync.endpoint_added(network, endpoint)
        return sandbox, endpoint, attachment

    async def _roll_back(self, endpoint: Endpoint, spec: JoinSpec, known: Sandbox | None) -> None:
        await roll_back(f"join of {spec.container_id}", self._undo(endpoint.id, spec.container_id, known))

    async def _undo(self, endpoint_id: str, container_id: str, known: Sandbox | None) -> None:
        attachment = self._records.attachment(container_id, endpoint_id)
        sandbox = self._records.sandbox(container_id)
        if attachment:
            await self._leaves.disconnect(attachment)
        elif sandbox and not known:
            await self._leaves.tear_down(sandbox)
        if known and sandbox:
            await self._records.commit(put=[known])
            await self._context.workers.run(self._context.host_files.write_job(known))
