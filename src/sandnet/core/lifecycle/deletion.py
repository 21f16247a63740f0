"""Delete networks and endpoints with what is left on them, and remove the sandboxes of exited containers.

An exited container never blocks a deletion. A running one does, unless the deletion is forced. Objects that are deleted
along use the same steps as a leave and as a deletion of their own, past errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from msgspec.structs import replace

from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.liveness import exited
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.context import Context
from sandnet.core.state.shared_writer import repeated
from sandnet.errors import Error, Kind, collected, not_found
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

MAX_NAMED = 10
"""The number of blocking objects that a refusal names."""


class Deletion:
    """Deletes networks and endpoints, and removes exited containers."""

    def __init__(self, context: Context, networks: Networks, endpoints: Endpoints, sandboxes: Sandboxes) -> None:
        self._context = context
        self._records = context.records
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes

    async def network(self, ref: str, *, force: bool = False) -> None:
        """Delete a network, and exited containers on it; with ``force`` running ones too.

        Raises:
            Error: ``NOT_FOUND``, ``PROTECTED`` (predefined), ``IN_USE`` naming the endpoints that block it;
                ``INTERNAL`` with all failures, or ``UNAVAILABLE`` where only the shared store refused: the same call
                finishes the work.
        """
        net = self._networks.deletable(ref)
        endpoints = self._records.endpoints_of(net.id)
        await self._records.refresh(each.id for each in endpoints)
        if force:
            self._refuse_joined_elsewhere(f"network {net.name}", endpoints)
        deletion = partial(self.network_within, net.id, force=force)
        await self._context.operations.run(self._repeated(deletion))

    async def endpoint(self, network_ref: str, ref: str, *, force: bool = False) -> None:
        """Delete an endpoint, and the exited containers behind it; with ``force`` running ones too.

        Raises:
            Error: ``NOT_FOUND``, ``IN_USE`` naming the containers, ``INTERNAL`` and ``UNAVAILABLE`` as :meth:`network`.
        """
        endpoint = self._endpoints.deletable(self._networks.find(network_ref), ref)
        await self._records.refresh([endpoint.id])
        if force:
            self._refuse_joined_elsewhere(f"endpoint {endpoint.name}", [endpoint])
        deletion = partial(self.endpoint_within, endpoint.id, force=force)
        await self._context.operations.run(self._repeated(deletion))

    async def _repeated(self, deletion: Callable[[], Awaitable[None]]) -> None:
        """Delete something, again if another host changed it at that instant; by then it may be gone."""
        refused = False

        async def attempt() -> None:
            nonlocal refused
            try:
                await deletion()
            except Error as failure:
                if not refused or failure.kind is not Kind.NOT_FOUND:
                    refused = True
                    raise

        await repeated(attempt, self._records.catch_up)

    def _refuse_joined_elsewhere(self, what: str, endpoints: Iterable[Endpoint]) -> None:
        """Refuse a forced deletion that the shared store would refuse, before anything is detached here."""
        found = [each for endpoint in endpoints for each in self._records.remote.of_endpoint(endpoint.id)]
        if found:
            named = ", ".join(f"{each.container_id} on host {each.host}" for each in found[:MAX_NAMED])
            message = f"{what} has active containers on other hosts: {named}"
            raise Error(Kind.IN_USE, message, "detach them there first", "endpoint_in_use")

    async def remove_exited(self, sandbox: Sandbox) -> None:
        """Remove an exited container from all its endpoints; do nothing when its sandbox is removed, or is a later one.

        Raises:
            Error: ``INTERNAL`` with all failures; the same call finishes the work.
        """
        failures: list[BaseException] = []
        for attachment in reversed(self._records.attachments_of_container(sandbox.container_id)):
            if self._is_current(sandbox) and self._is_owned(attachment):
                failures += await gather_errors(self.remove_exited_endpoint(attachment.endpoint_id))
                continue
            async with self._context.locks.hold(
                f"endpoint/{attachment.endpoint_id}", f"sandbox/{sandbox.container_id}"
            ):
                current = self._records.attachment(sandbox.container_id, attachment.endpoint_id)
                if current and self._is_current(sandbox):
                    if sandbox.phase is Phase.READY:
                        await self._mark_orphaned(current)
                    failures += await gather_errors(self._sandboxes.disconnect(current))
        async with self._context.locks.hold(f"sandbox/{sandbox.container_id}"):
            if self._is_current(sandbox) and not self._records.attachments_of_container(sandbox.container_id):
                failures += await gather_errors(self._sandboxes.tear_down(sandbox))
        if failures:
            raise collected(f"the sandbox of {sandbox.container_id} is not wholly removed", failures)

    async def remove_exited_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint whose process has ended; do nothing when it is absent.

        Raises:
            Error: as :meth:`endpoint`.
        """
        if self._records.endpoint(endpoint_id):
            await self.endpoint_within(endpoint_id, force=True)

    def _is_current(self, sandbox: Sandbox) -> bool:
        """Return whether it is still the same sandbox, and no join has changed what it is tied to in the meantime."""
        known = self._records.sandbox(sandbox.container_id)
        return known is not None and _liveness(known) == _liveness(sandbox)

    def _is_owned(self, attachment: Attachment) -> bool:
        """Return whether the endpoint is deleted with this attachment, its last one."""
        endpoint = self._records.endpoint(attachment.endpoint_id)
        last = len(self._records.attachments_of_endpoint(attachment.endpoint_id)) == 1
        return endpoint is not None and endpoint.owner != "" and last

    async def _mark_orphaned(self, leaving: Attachment) -> None:
        """Record that the endpoint's last container exited: then it does not block the deletion of its network."""
        endpoint = self._records.endpoint(leaving.endpoint_id)
        others = len(self._records.attachments_of_endpoint(leaving.endpoint_id)) > 1
        if endpoint and endpoint.phase is Phase.READY and not endpoint.orphaned and not others:
            await self._records.commit(put=[replace(endpoint, orphaned=True)])

    # Networks.

    async def network_within(self, network_id: str, *, force: bool = False) -> None:
        """Delete a network as :meth:`network` does, as part of an operation in progress."""
        net = self._networks.get(network_id)
        if net.predefined and net.phase is not Phase.REMOVING:  # else its creation failed, and so did the rollback
            raise Error(Kind.PROTECTED, f"network {net.name} is predefined and cannot be deleted", code="predefined")
        with self._closing(network_id, force):
            while not await self._try_network(network_id, force):
                pass  # new endpoints or containers joined the network while this waited for the locks
        await self._context.host_files.flush()

    def _closing(self, network_id: str, decided: bool) -> AbstractContextManager[None]:
        return self._networks.closing(network_id) if decided else nullcontext()

    async def _try_network(self, network_id: str, force: bool) -> bool:
        names = self._locks_of_network(network_id)
        async with self._context.locks.hold(*names):
            net = self._networks.get(network_id)
            if not force and net.phase is not Phase.REMOVING:
                await self._refuse_used(net)
            if not self._locks_of_network(network_id) <= names:
                return False
            with self._closing(network_id, not force):
                await self._delete_contents(net, force=force)
            return True

    def _locks_of_network(self, network_id: str) -> set[str]:
        return {
            f"network/{network_id}",
            *(f"endpoint/{endpoint.id}" for endpoint in self._records.endpoints_of(network_id)),
            *(f"sandbox/{attachment.container_id}" for attachment in self._records.attachments_of_network(network_id)),
        }

    async def _delete_contents(self, net: Network, *, force: bool) -> None:
        """Delete a network with all that is on it.

        The network's record alone is the intent: a restart continues with all objects on a network that is being
        deleted.
        """
        await self._records.commit(put=[replace(net, phase=Phase.REMOVING)])
        failures = await self._disconnect(self._records.attachments_of_network(net.id))
        endpoints = self._records.endpoints_of(net.id)
        unattached = [each for each in endpoints if not self._records.attachments_of_endpoint(each.id)]
        delete = partial(self._endpoints.delete_unattached, force=force)
        failures += await gather_errors(*map(delete, unattached))
        if failures:
            raise collected(f"the deletion of network {net.name} is incomplete; repeat it", failures)
        await self._networks.remove(net, force=force)

    async def _disconnect(self, attachments: Iterable[Attachment]) -> list[BaseException]:
        """Disconnect containers in parallel, the attachments of one container in order, the last attached first.

        All are set to removing before the first is disconnected: none may become the holder of its endpoint's address
        while it is being removed too.
        """
        attachments = [replace(each, phase=Phase.REMOVING) for each in attachments]
        if not attachments:
            return []
        await self._records.commit(put=attachments)
        by_container: dict[str, list[Attachment]] = {}
        for attachment in attachments:
            by_container.setdefault(attachment.container_id, []).insert(0, attachment)
        return await gather_errors(*map(self._disconnect_in_order, by_container.values()))

    async def _disconnect_in_order(self, attachments: Iterable[Attachment]) -> None:
        failures: list[BaseException] = []
        for attachment in attachments:
            failures += await gather_errors(self._sandboxes.disconnect(attachment))
        if failures:
            raise collected(f"{attachment.container_id} is not wholly detached", failures)

    async def _refuse_used(self, net: Network) -> None:
        endpoints = self._records.endpoints_of(net.id)
        blocking: list[str] = []
        for endpoint in endpoints:
            running = await self._running(endpoint)
            if running or not self._has_exited(endpoint):
                blocking.append(self._detail(endpoint, running))
            if len(blocking) == MAX_NAMED:
                break
        if blocking:
            rest = len(endpoints) - endpoints.index(endpoint) - 1
            more = f" and up to {rest} more" if rest else ""
            message = f"network {net.name} has active endpoints: {', '.join(blocking)}{more}"
            hint = "delete its endpoints first, or all with it: --force, ?force=true"
            raise Error(Kind.IN_USE, message, hint, "network_in_use")

    def _has_exited(self, endpoint: Endpoint) -> bool:
        """Return, for an endpoint without running containers, whether it had one."""
        return endpoint.orphaned or bool(self._records.attachments_of_endpoint(endpoint.id))

    def _detail(self, endpoint: Endpoint, running: Sequence[str]) -> str:
        users = ", ".join(map(self._named, running[:MAX_NAMED]))
        return f"{endpoint.name} ({endpoint.id[:12]}{': ' if users else ''}{users})"

    def _named(self, container_id: str) -> str:
        sandbox = self._records.sandbox(container_id)
        return f"{container_id}, pid {sandbox.process.pid}" if sandbox and sandbox.process else container_id

    async def _running(self, endpoint: Endpoint) -> list[str]:
        """Return the containers behind an endpoint that have not exited, those of other hosts with their host."""
        remote = [f"{each.container_id} on host {each.host}" for each in self._records.remote.of_endpoint(endpoint.id)]
        attached = [each.container_id for each in self._records.attachments_of_endpoint(endpoint.id)]
        sandboxes = [sandbox for sandbox in map(self._records.sandbox, attached) if sandbox]
        if not sandboxes:
            return remote
        exited_ids = await exited(self._context.kernel, self._context.workers, sandboxes)
        return [*(each.container_id for each in sandboxes if each.container_id not in exited_ids), *remote]

    # Endpoints.

    async def endpoint_within(self, endpoint_id: str, *, force: bool = False) -> None:
        """Delete an endpoint as :meth:`endpoint` does, as part of an operation in progress."""
        while not await self._try_endpoint(endpoint_id, force):
            pass  # a container joined while this waited for the locks
        await self._context.host_files.flush()

    async def _try_endpoint(self, endpoint_id: str, force: bool) -> bool:
        names = self._locks_of_endpoint(endpoint_id)
        async with self._context.locks.hold(*names):
            endpoint = self._records.endpoint(endpoint_id)
            if endpoint is None:
                raise not_found("endpoint", endpoint_id)
            if not self._locks_of_endpoint(endpoint_id) <= names:
                return False
            if not force and endpoint.phase is not Phase.REMOVING:
                await self._refuse_joined(endpoint)
            attached = self._records.attachments_of_endpoint(endpoint_id)
            if attached or (force and endpoint.has_owner):  # its owner may have ended: a refusal must not keep it
                await self._records.commit(put=[replace(endpoint, phase=Phase.REMOVING)])
            failures = await self._disconnect(attached)
            if failures:
                raise collected(f"the deletion of endpoint {endpoint.name} is incomplete; repeat it", failures)
            await self._endpoints.delete_unattached(endpoint, force=force)
            return True

    async def close_ports(self, endpoint: Endpoint) -> None:
        """Close the published ports of an endpoint whose removal ended half-way, if they are open; its lock is held."""
        await self._endpoints.close_ports(self._networks.get(endpoint.network_id), endpoint)

    def _locks_of_endpoint(self, endpoint_id: str) -> set[str]:
        attached = self._records.attachments_of_endpoint(endpoint_id)
        return {f"endpoint/{endpoint_id}", *(f"sandbox/{each.container_id}" for each in attached)}

    async def _refuse_joined(self, endpoint: Endpoint) -> None:
        running = await self._running(endpoint)
        if running:
            message = f"endpoint {endpoint.name} has active containers: {', '.join(map(self._named, running))}"
            raise Error(
                Kind.IN_USE, message, "detach them first, or all with it: --force, ?force=true", "endpoint_in_use"
            )


def _liveness(sandbox: Sandbox) -> tuple[object, ...]:
    return sandbox.sequence, sandbox.process, sandbox.auto_remove


async def gather_errors(*steps: Awaitable[object]) -> list[BaseException]:
    """Run all steps together, past those that fail; return the failures."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    return [each for each in results if isinstance(each, BaseException)]
