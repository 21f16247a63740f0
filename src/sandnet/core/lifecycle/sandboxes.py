"""Sandboxes: containers joined to endpoints. This module finds them and takes the locks; ``join`` and ``leave`` act."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from msgspec.structs import replace

from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.join import Joins
from sandnet.core.lifecycle.leave import Leaves
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.parent_updates import ParentUpdates
from sandnet.core.lifecycle.references import attached_id, begins
from sandnet.core.runtime.context import Context
from sandnet.core.state.shared_writer import CHOICES, CLAIMED_ELSEWHERE, JOINED_ELSEWHERE
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.model import Address, Attachment, BoundPort, Endpoint, JoinSpec, Network, Phase, PortMapping, Sandbox
from sandnet.model.network import dns_gateways
from sandnet.model.ports import mapping_of


class Sandboxes:
    """The sandboxes of this host."""

    def __init__(self, context: Context, networks: Networks, endpoints: Endpoints) -> None:
        self._context = context
        self._records = context.records
        self._networks = networks
        self._endpoints = endpoints
        self.parents = ParentUpdates(context.records, context.locks, context.host_files)
        self._leaves = Leaves(context)
        self._joins = Joins(context, self._leaves, self.parents)

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

    def gateways(self, sandbox: Sandbox, attachment: Attachment) -> Sequence[Address]:
        """Return the next hops of the sandbox's default routes that lead through the attachment."""
        routes = SandboxRoutes(self._records).of_guest(sandbox)
        return [route.gateway for route in routes if route.interface == attachment.interface]

    def name_servers(self, sandbox: Sandbox, network: Network) -> Sequence[Address]:
        """Return the name servers that a virtual machine can query on a network."""
        gateways = dns_gateways(network, is_machine=True) if self._context.resolver_sync.serves else ()
        return tuple(gateway.ip for gateway in gateways) or sandbox.dns

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
        if spec.running_container:
            find = self._context.kernel.processes.of_container
            spec = replace(spec, pid=await self._context.workers.run(find, spec.running_container))
        return await self._context.operations.run(self.join_within(endpoint.id, spec, many=many))

    async def leave(self, network_ref: str, endpoint_ref: str, container_id: str) -> None:
        """Remove a container, by id or unique id prefix, from an endpoint; its last leave removes its sandbox.

        Raises:
            Error: ``NOT_FOUND``.
        """
        network = self._networks.find(network_ref)
        endpoint = self._endpoints.find(network, endpoint_ref)
        await self._context.operations.run(self._leave(endpoint.id, container_id))

    async def publish(self, endpoint_id: str, mappings: Sequence[PortMapping]) -> None:
        """Publish ports of an endpoint that exists and has none.

        Raises:
            Error: as :meth:`Endpoints.publish`.
        """
        await self._context.operations.run(self._publish(endpoint_id, mappings))

    async def unpublish(self, endpoint_id: str) -> None:
        """Withdraw the published ports of an endpoint."""
        await self._context.operations.run(self._publish(endpoint_id, ()))

    async def _publish(self, endpoint_id: str, mappings: Sequence[PortMapping]) -> None:
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):
            network, endpoint = self._usable(endpoint_id)
            endpoint = replace(endpoint, ports_withdrawn=True)  # until they are published, and when that fails
            if mappings and not endpoint.is_published:
                await self._endpoints.publish(network, endpoint, mappings)
            elif endpoint.is_published and not mappings:
                await self._endpoints.unpublish(network, endpoint)
            await self._ensure_ports(endpoint_id)

    async def replace_ports(self, endpoint_id: str, ports: Sequence[BoundPort]) -> None:
        """Publish these ports of an endpoint instead of those that it has.

        Raises:
            Error: as :meth:`Endpoints.publish`; then it has none.
        """
        await self._context.operations.run(self._replace_ports(endpoint_id, tuple(ports)))

    async def _replace_ports(self, endpoint_id: str, ports: tuple[BoundPort, ...]) -> None:
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):
            network, endpoint = self._usable(endpoint_id)
            if endpoint.ports == ports:
                return
            if endpoint.ports:
                await self._endpoints.unpublish(network, endpoint)
            if ports:
                await self._endpoints.publish(network, replace(endpoint, ports=()), list(map(mapping_of, ports)))
            await self._ensure_ports(endpoint_id)

    async def _ensure_ports(self, endpoint_id: str) -> None:
        """Let the bridge return frames to the containers of a published endpoint, and not to those of another."""
        for attachment in self._records.attachments_of_endpoint(endpoint_id):
            sandbox = self._records.sandbox(attachment.container_id)
            if sandbox and attachment.phase is Phase.READY:
                await self.ensure(sandbox, attachment)

    # Joining.

    async def join_within(self, endpoint_id: str, spec: JoinSpec, *, many: bool = False) -> Sandbox:
        """Join a container as :meth:`join` does, as part of an operation in progress."""
        for attempt in range(CHOICES):
            try:
                return await self._join(endpoint_id, spec, many=many)
            except Error as failure:
                refusal = failure
                if failure.code == JOINED_ELSEWHERE and not many:
                    if not await self._records.refresh([endpoint_id]):
                        raise
                elif failure.code in (CLAIMED_ELSEWHERE, JOINED_ELSEWHERE):
                    await self._records.catch_up()
                    if failure.code == CLAIMED_ELSEWHERE:
                        self._skip(endpoint_id, attempt)
                else:
                    raise
        raise refusal

    def _skip(self, endpoint_id: str, attempt: int) -> None:
        endpoint = self._records.endpoint(endpoint_id)
        network = self._records.network(endpoint.network_id) if endpoint else None
        if network:
            self._context.leases.skip(network, attempt)

    async def _join(self, endpoint_id: str, spec: JoinSpec, *, many: bool) -> Sandbox:
        await self.finish_interrupted(endpoint_id, spec.container_id)
        async with self._hold(endpoint_id, spec.container_id):
            network, endpoint = self._usable(endpoint_id)
            sandbox = await self._joins.join(network, endpoint, spec, many=many)
        await self.parents.deliver(sandbox)
        return sandbox

    async def finish_interrupted(self, endpoint_id: str, container_id: str) -> None:
        """Finish operations that failed half-way, so that they do not block the endpoint or the container.

        Under the locks no other join or leave is in progress, so an attachment that is not ready is a leftover.
        """
        records = self._records
        touching = [*records.attachments_of_endpoint(endpoint_id), *records.attachments_of_container(container_id)]
        for attachment in (each for each in touching if each.phase is not Phase.READY):
            async with self._hold(attachment.endpoint_id, attachment.container_id):
                current = records.attachment(attachment.container_id, attachment.endpoint_id)
                if current and current.phase is not Phase.READY:
                    await self._leaves.disconnect(current)
        async with self._context.locks.hold(f"sandbox/{container_id}"):
            sandbox = records.sandbox(container_id)
            if sandbox and sandbox.phase is not Phase.READY and not records.attachments_of_container(container_id):
                await self._leaves.tear_down(sandbox)

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
            await self._leaves.disconnect(attachment)

    async def drop(self, attachment: Attachment) -> None:
        """Take the locks and disconnect an attachment; do nothing when it has been removed."""
        async with self._hold(attachment.endpoint_id, attachment.container_id):
            current = self._records.attachment(attachment.container_id, attachment.endpoint_id)
            if current:
                await self._leaves.disconnect(current)

    async def disconnect(self, attachment: Attachment) -> None:
        """Remove an attachment; see :meth:`Leaves.disconnect`. The locks are held."""
        await self._leaves.disconnect(attachment)

    async def tear_down(self, sandbox: Sandbox) -> None:
        """Remove a sandbox without attachments; see :meth:`Leaves.tear_down`. The lock is held."""
        await self._leaves.tear_down(sandbox)

    async def ensure(self, sandbox: Sandbox, attachment: Attachment) -> None:
        """Set up an attachment again, by the same steps that created it."""
        network, endpoint = self._usable(attachment.endpoint_id)
        await self._joins.ensure(network, endpoint, sandbox, attachment)

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
