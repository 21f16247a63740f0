"""Deletion of networks and endpoints with what is left on them, and the end of containers that died.

What is dead never stands in the way of a deletion; what is alive does, unless the deletion is forced. Whatever is
taken along goes by the same steps as in a leave and in a deletion of its own, past errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace

from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.liveness import exited
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.context import Context
from sandnet.errors import Error, Kind, collected, not_found
from sandnet.model import Attachment, Endpoint, Network, Phase, Sandbox

NAMED = 10
"""How many of those that stand in the way a refusal names."""


class Deletion:
    """Deletes networks and endpoints, and buries the dead."""

    def __init__(self, context: Context, networks: Networks, endpoints: Endpoints, sandboxes: Sandboxes) -> None:
        self._context = context
        self._records = context.records
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes

    async def network(self, ref: str, *, force: bool = False) -> None:
        """Delete a network, and what is dead on it; with ``force`` what is alive too.

        Raises:
            Error: ``NOT_FOUND``, ``PROTECTED`` (predefined), ``IN_USE`` naming the endpoints that are in the way,
                ``INTERNAL`` with all that failed: the same call finishes the work.
        """
        net = self._networks.deletable(ref)
        await self._context.operations.run(self._network(net.id, force))

    async def endpoint(self, network_ref: str, ref: str, *, force: bool = False) -> None:
        """Delete an endpoint, and the dead containers behind it; with ``force`` those that are alive too.

        Raises:
            Error: ``NOT_FOUND``, ``IN_USE`` naming the containers, ``INTERNAL`` as :meth:`network`.
        """
        endpoint = self._endpoints.deletable(self._networks.find(network_ref), ref)
        await self._context.operations.run(self._endpoint(endpoint.id, force))

    async def remove_exited(self, sandbox: Sandbox) -> None:
        """Take a dead container off all its endpoints; one that is gone, or has a later sandbox, is passed over.

        Raises:
            Error: ``INTERNAL`` with all that failed; the same call finishes the work.
        """
        failures: list[BaseException] = []
        for attachment in reversed(self._records.attachments_of_container(sandbox.container_id)):
            async with self._context.locks.hold(
                f"endpoint/{attachment.endpoint_id}", f"sandbox/{sandbox.container_id}"
            ):
                current = self._records.attachment(sandbox.container_id, attachment.endpoint_id)
                if current and self._is(sandbox):
                    if sandbox.phase is Phase.READY:
                        await self._mark_orphaned(current)
                    failures += await gather_errors(self._sandboxes.disconnect(current))
        async with self._context.locks.hold(f"sandbox/{sandbox.container_id}"):
            if self._is(sandbox) and not self._records.attachments_of_container(sandbox.container_id):
                failures += await gather_errors(self._sandboxes.tear_down(sandbox))
        if failures:
            raise collected(f"the sandbox of {sandbox.container_id} is not wholly removed", failures)

    async def remove_exited_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint whose process has ended; absent: success.

        Raises:
            Error: as :meth:`bury`.
        """
        if self._records.endpoint(endpoint_id):
            await self._endpoint(endpoint_id, force=True)

    def _is(self, sandbox: Sandbox) -> bool:
        """Whether it is that sandbox still, and no join has meanwhile said of it what it is to go with."""
        known = self._records.sandbox(sandbox.container_id)
        return known is not None and _liveness(known) == _liveness(sandbox)

    async def _mark_orphaned(self, leaving: Attachment) -> None:
        """Remember that the endpoint's last container died: it does not keep its network from being deleted."""
        endpoint = self._records.endpoint(leaving.endpoint_id)
        others = len(self._records.attachments_of_endpoint(leaving.endpoint_id)) > 1
        if endpoint and endpoint.phase is Phase.READY and not endpoint.orphaned and not others:
            await self._records.commit(put=[replace(endpoint, orphaned=True)])

    # Networks.

    async def _network(self, network_id: str, force: bool) -> None:
        net = self._networks.get(network_id)
        if net.predefined:
            raise Error(Kind.PROTECTED, f"network {net.name} is predefined and cannot be deleted", code="predefined")
        with self._closing(network_id, force):
            while not await self._try_network(network_id, force):
                pass  # somebody came to the network while we waited for those who were there
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
                await self._delete_contents(net)
            return True

    def _locks_of_network(self, network_id: str) -> set[str]:
        return {
            f"network/{network_id}",
            *(f"endpoint/{endpoint.id}" for endpoint in self._records.endpoints_of(network_id)),
            *(f"sandbox/{attachment.container_id}" for attachment in self._records.attachments_of_network(network_id)),
        }

    async def _delete_contents(self, net: Network) -> None:
        """The network's record alone is the intent: a restart goes on with whatever is on a network that goes."""
        await self._records.commit(put=[replace(net, phase=Phase.REMOVING)])
        failures = await self._disconnect(self._records.attachments_of_network(net.id))
        failures += await gather_errors(*(self._endpoints.unmake(each) for each in self._records.endpoints_of(net.id)
                                 if not self._records.attachments_of_endpoint(each.id)))  # fmt: skip
        if failures:
            raise collected(f"the deletion of network {net.name} is incomplete; repeat it", failures)
        await self._networks.remove(net)

    async def _disconnect(self, attachments: Iterable[Attachment]) -> list[BaseException]:
        """Containers at once, those of one container in turn, the last attached first.

        All are marked before the first goes: none may be made the holder of its endpoint's address while it goes too.
        """
        attachments = [replace(each, phase=Phase.REMOVING) for each in attachments]
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
        in_the_way: list[str] = []
        for endpoint in endpoints:
            alive = await self._running(endpoint)
            if alive or not self._has_exited(endpoint):
                in_the_way.append(self._detail(endpoint, alive))
            if len(in_the_way) == NAMED:
                break
        if in_the_way:
            rest = len(endpoints) - endpoints.index(endpoint) - 1
            more = f" and up to {rest} more" if rest else ""
            message = f"network {net.name} has active endpoints: {', '.join(in_the_way)}{more}"
            hint = "delete its endpoints first, or all with it: --force, ?force=true"
            raise Error(Kind.IN_USE, message, hint, "network_in_use")

    def _has_exited(self, endpoint: Endpoint) -> bool:
        """Of one that nobody alive is behind: whether somebody was."""
        return endpoint.orphaned or bool(self._records.attachments_of_endpoint(endpoint.id))

    def _detail(self, endpoint: Endpoint, alive: Sequence[str]) -> str:
        users = ", ".join(map(self._named, alive[:NAMED]))
        return f"{endpoint.name} ({endpoint.id[:12]}{': ' if users else ''}{users})"

    def _named(self, container_id: str) -> str:
        sandbox = self._records.sandbox(container_id)
        return f"{container_id}, pid {sandbox.process.pid}" if sandbox and sandbox.process else container_id

    async def _running(self, endpoint: Endpoint) -> list[str]:
        """The containers behind an endpoint that are not dead."""
        attached = [each.container_id for each in self._records.attachments_of_endpoint(endpoint.id)]
        sandboxes = [sandbox for sandbox in map(self._records.sandbox, attached) if sandbox]
        if not sandboxes:
            return []
        gone = await exited(self._context, sandboxes)
        return [sandbox.container_id for sandbox in sandboxes if sandbox.container_id not in gone]

    # Endpoints.

    async def _endpoint(self, endpoint_id: str, force: bool) -> None:
        while not await self._try_endpoint(endpoint_id, force):
            pass  # a container came while we waited for those that were there
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
            if attached:
                await self._records.commit(put=[replace(endpoint, phase=Phase.REMOVING)])
            failures = await self._disconnect(attached)
            if failures:
                raise collected(f"the deletion of endpoint {endpoint.name} is incomplete; repeat it", failures)
            await self._endpoints.unmake(endpoint)
            return True

    def _locks_of_endpoint(self, endpoint_id: str) -> set[str]:
        attached = self._records.attachments_of_endpoint(endpoint_id)
        return {f"endpoint/{endpoint_id}", *(f"sandbox/{each.container_id}" for each in attached)}

    async def _refuse_joined(self, endpoint: Endpoint) -> None:
        alive = await self._running(endpoint)
        if alive:
            message = f"endpoint {endpoint.name} has active containers: {', '.join(map(self._named, alive))}"
            raise Error(
                Kind.IN_USE, message, "detach them first, or all with it: --force, ?force=true", "endpoint_in_use"
            )


def _liveness(sandbox: Sandbox) -> tuple[object, ...]:
    return sandbox.sequence, sandbox.process, sandbox.auto_remove


async def gather_errors(*steps: Awaitable[object]) -> list[BaseException]:
    """Take all steps, together, past those that fail; what failed."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    return [each for each in results if isinstance(each, BaseException)]
