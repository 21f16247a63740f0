"""Connections of containers to networks, each with an endpoint of its own, as clients of Docker's API make them.

The client names a network and a container. The endpoint is created with the join and deleted with the leave, as its
record has an owner. A container is one that has a sandbox, or one that another engine runs, or a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from sandnet.core.lifecycle.deletion import Deletion, gather_errors
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations, roll_back
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, collected, invalid, not_found
from sandnet.kernel.observation import Processes
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, Endpoint, EndpointSpec, JoinSpec, Network, Origin, Phase, Sandbox
from sandnet.model.ids import ENDPOINT_NAME, bare, new_id
from sandnet.model.interfaces.interface_options import InterfaceOptions

OWNER: Final = "connection/"
"""Beginning of the owners of such endpoints."""
_PID: Final = re.compile(r"[1-9][0-9]{0,6}")
"""No pid is longer: the kernel's PID_MAX_LIMIT is 4,194,304. An id has at least 12 characters."""
_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_SHORT: Final = 12


class ConnectSpec(NamedTuple):
    """A validated request to connect a container."""

    container: str
    """An id or name of a sandbox, the id of a running container, or a pid."""
    endpoint: EndpointSpec
    """Addresses, MAC, aliases; the name is that of the container."""
    interface: str = ""
    """Name inside; empty: the first free one of ``eth0``, ``eth1``…"""
    gateway_priority: int = 0
    sysctls: Mapping[str, str] = {}
    """Kernel parameters of the interface."""


class Connections:
    """Connects and disconnects containers."""

    def __init__(
        self,
        records: Records,
        operations: Operations,
        locks: Locks,
        workers: Workers,
        processes: Processes,
        lifecycle: tuple[Networks, Endpoints, Sandboxes, Deletion],
    ) -> None:
        """Initialize without any connection.

        Args:
            records: networks, endpoints, sandboxes, attachments.
            operations: counts the changes in progress.
            locks: those of all objects.
            workers: threads for calls to the kernel.
            processes: finds containers of other engines.
            lifecycle: the daemon's own verbs.
        """
        self._records = records
        self._operations = operations
        self._locks = locks
        self._workers = workers
        self._processes = processes
        self._networks, self._endpoints, self._sandboxes, self._removal = lifecycle

    async def connect(self, network_ref: str, spec: ConnectSpec) -> Endpoint:
        """Create an endpoint for a container, and join it.

        Raises:
            Error: ``NOT_FOUND``; ``INVALID``: the reference is ambiguous, or the container is connected already (code
                ``already_joined``); otherwise as :meth:`Endpoints.create` and :meth:`Sandboxes.join`. Nothing is left
                behind.
        """
        network = self._networks.find(network_ref)
        known = self._find(spec.container)
        join = await self._join_spec(spec, known)
        return await self._operations.run(self._connect(network, spec, join, known))

    async def disconnect(self, network_ref: str, container: str, *, force: bool = False) -> None:
        """Remove a container from a network, with the endpoint if that exists for it alone.

        Args:
            network_ref: the network.
            container: as in :attr:`ConnectSpec.container`.
            force: whether ``container`` may also be the name or the id of an endpoint, which is then deleted.

        Raises:
            Error: ``NOT_FOUND``: also if the container is not connected; ``INTERNAL`` with all failures.
        """
        network = self._networks.find(network_ref)
        await self._operations.run(self._disconnect(network, container, force))

    # Connecting.

    async def _connect(self, network: Network, spec: ConnectSpec, join: JoinSpec, known: Sandbox | None) -> Endpoint:
        async with self._locks.hold(f"connection/{network.id}/{join.container_id}"):
            if attached := self._attached(network, join.container_id):
                name = self._endpoints.get(attached[0].endpoint_id).name
                message = f"container {spec.container} is already connected to network {network.name} as {name}"
                raise invalid(message, "disconnect it first", "already_joined")
            endpoint = await self._create_endpoint(network, replace(spec.endpoint, owner=OWNER + join.container_id))
            try:
                joined = await self._sandboxes.join_within(endpoint.id, join)
                if known and joined.sequence != known.sequence:  # it ended, and the join made another one of its id
                    raise _no_container(spec.container)
            except BaseException:
                removal = self._removal.endpoint_within(endpoint.id, force=True)
                await roll_back(f"endpoint {endpoint.name}", removal)
                raise
            return endpoint

    async def _create_endpoint(self, network: Network, spec: EndpointSpec) -> Endpoint:
        names = [name for name in self._names(spec) if not self._records.endpoints_named(name, network.id)]
        for name in names[:-1]:
            try:
                return await self._endpoints.create_within(network, replace(spec, name=name))
            except Error as failure:  # another request has taken the name in the meantime
                if failure.kind is not Kind.NAME_TAKEN:
                    raise
        return await self._endpoints.create_within(network, replace(spec, name=names[-1]))

    def _names(self, spec: EndpointSpec) -> Iterator[str]:
        """Yield names for a container's endpoint: those that it has elsewhere, its id, and at last an arbitrary one."""
        container_id = spec.owner.removeprefix(OWNER)
        for attachment in self._records.attachments_of_container(container_id):
            yield bare(self._endpoints.get(attachment.endpoint_id).name)
        sandbox = self._records.sandbox(container_id)
        short = container_id[:_SHORT] if _ID.fullmatch(container_id) else container_id
        for name in (sandbox.host_name if sandbox else "", short):
            if ENDPOINT_NAME.fullmatch(name):
                yield name
        yield new_id()[:_SHORT]

    async def _join_spec(self, spec: ConnectSpec, known: Sandbox | None) -> JoinSpec:
        """Return the join of a container that has a sandbox, or of one that another engine runs.

        Raises:
            Error: ``NOT_FOUND``, ``INVALID``.
        """
        options = InterfaceOptions(sysctls=dict(spec.sysctls)) if spec.sysctls else None
        join = JoinSpec(
            container_id="", interface=spec.interface, gateway_priority=spec.gateway_priority, options=options
        )
        ref = spec.container
        if known:
            if known.origin is Origin.EXTERNAL:
                message = f"container {ref} belongs to a container engine, which configures its namespace"
                raise invalid(message, "connect it with the engine's own command", "external")
            return replace(join, container_id=known.container_id)
        if _PID.fullmatch(ref):
            if await self._workers.run(self._processes.started, int(ref)) is None:
                raise _no_container(ref)
            return replace(join, container_id=f"pid-{ref}", pid=int(ref))
        if _ID.fullmatch(ref):
            pid = await self._workers.run(self._processes.of_container, ref)
            return replace(join, container_id=ref, pid=pid)
        raise _no_container(ref)

    # Disconnecting.

    async def _disconnect(self, network: Network, ref: str, force: bool) -> None:
        sandbox = self._find(ref)
        attached = self._attached(network, sandbox.container_id) if sandbox else []
        if not attached and force:
            endpoint = self._endpoints.find(network, ref.removeprefix("ep-"))
            await self._removal.endpoint_within(endpoint.id, force=True)
            return
        if sandbox is None:
            raise _no_container(ref)
        async with self._locks.hold(f"connection/{network.id}/{sandbox.container_id}"):
            await self._remove(network, sandbox)

    async def _remove(self, network: Network, sandbox: Sandbox) -> None:
        attached = self._attached(network, sandbox.container_id)
        if not attached:
            message = f"container {sandbox.container_id} is not connected to network {network.name}"
            raise Error(Kind.NOT_FOUND, message, code="not_attached")
        failures = await gather_errors(*map(self._remove_one, attached))
        if failures:
            raise collected(f"container {sandbox.container_id} is not wholly disconnected; repeat it", failures)

    async def _remove_one(self, attachment: Attachment) -> None:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        alone = len(self._records.attachments_of_endpoint(attachment.endpoint_id)) == 1
        if endpoint and alone and endpoint.owner:
            await self._removal.remove_exited_endpoint(endpoint.id)
        else:
            await self._sandboxes.drop(attachment)

    # Looking up.

    def _find(self, ref: str) -> Sandbox | None:
        """Return the sandbox that a reference means: by id, by a longer id of the same container, by pid or by name.

        Raises:
            Error: ``INVALID``: it means several.
        """
        try:
            return self._sandboxes.find(ref)
        except Error as failure:
            if failure.kind is not Kind.NOT_FOUND:
                raise
        for means in (self._is_longer_id, self._is_pid, self._is_name):
            found = [sandbox for sandbox in self._sandboxes.list() if means(sandbox, ref)]
            if len(found) > 1:
                candidates = ", ".join(each.container_id for each in found[:10])
                raise invalid(f"{ref!r} means more than one container: {candidates}", "use the full id", "ambiguous")
            if found:
                return found[0]
        return None

    def _is_longer_id(self, sandbox: Sandbox, ref: str) -> bool:
        """Return whether a container that was connected by the beginning of its id is meant by more of it."""
        known = sandbox.container_id
        return _ID.fullmatch(known) is not None and _ID.fullmatch(ref) is not None and ref.startswith(known)

    def _is_pid(self, sandbox: Sandbox, ref: str) -> bool:
        return _PID.fullmatch(ref) is not None and sandbox.process is not None and sandbox.process.pid == int(ref)

    def _is_name(self, sandbox: Sandbox, ref: str) -> bool:
        """Return whether the name is the sandbox's host name, or one of its endpoints alone has it."""
        attached = self._records.attachments_of_container(sandbox.container_id)
        endpoints = (self._records.endpoint(each.endpoint_id) for each in attached)
        return ref in (sandbox.host_name, *(bare(each.name) for each in endpoints if each)) and ref != ""

    def _attached(self, network: Network, container_id: str) -> Sequence[Attachment]:
        found = self._records.attachments_of_container(container_id)
        return [each for each in found if each.network_id == network.id and each.phase is Phase.READY]


def _no_container(ref: str) -> Error:
    hint = "give the id or name of a sandbox, 12 or more digits of the id of a running container, or a pid"
    return not_found("container", repr(ref[:80]), hint)
