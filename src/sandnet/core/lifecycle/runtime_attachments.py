"""Attachments of container runtimes: one request makes the network, an endpoint of the attachment's own, and the join.

The endpoint's record names the attachment as its owner. So a deletion needs no more than the container's id and the
interface's name, and the endpoint is deleted with the container when the runtime never deletes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from msgspec.structs import replace

from sandnet.core.lifecycle.default_routes import SandboxRoutes
from sandnet.core.lifecycle.deletion import Deletion, gather_errors
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.liveness import NamespaceUse
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations, roll_back
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, collected, invalid
from sandnet.kernel.types import DefaultRoute
from sandnet.model import Address, Attachment, Endpoint, EndpointSpec, JoinSpec, Network, NetworkSpec, Phase, Sandbox
from sandnet.model.endpoint import RUNTIME_OWNER, runtime_owner
from sandnet.model.link_names import MACVLAN_MODES
from sandnet.model.name_server import ADDRESS
from sandnet.model.network import dns_gateways


class AttachSpec(NamedTuple):
    """A validated request to attach a container's interface to a network."""

    network: NetworkSpec
    """The network; it is created if there is none of its name."""
    names: Sequence[str]
    """Names for the endpoint: the first one that is free on the network is taken."""
    endpoint: EndpointSpec
    """The endpoint; its name is one of ``names``."""
    join: JoinSpec
    """The join; ``interface`` and ``netns`` are given."""
    names_driver: bool = False
    """Whether the network must be of the spec's driver."""


class RuntimeAttachment(NamedTuple):
    """An attachment of a container runtime, with all that belongs to it."""

    network: Network
    endpoint: Endpoint
    attachment: Attachment
    sandbox: Sandbox


class RuntimeAttachments:
    """The attachments of container runtimes, each identified by a container's id and an interface's name."""

    def __init__(
        self,
        records: Records,
        operations: Operations,
        locks: Locks,
        resolver_sync: ResolverSync,
        namespace_use: NamespaceUse,
        *,
        networks: Networks,
        endpoints: Endpoints,
        sandboxes: Sandboxes,
        removal: Deletion,
    ) -> None:
        self._records = records
        self._operations = operations
        self._locks = locks
        self._resolver_sync = resolver_sync
        self._namespace_use = namespace_use
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes
        self._removal = removal
        self._routes = SandboxRoutes(records)
        self._attaching = Counter[str]()
        """How many requests are about to attach a container, by the id of the network."""

    def find(self, network_name: str, container_id: str, interface: str) -> RuntimeAttachment | None:
        """Return the attachment of that key on the network, if it is ready."""
        endpoint = self._owned(network_name, container_id, interface)
        network = endpoint and self._records.network(endpoint.network_id)
        attachment = endpoint and self._records.attachment(container_id, endpoint.id)
        sandbox = self._records.sandbox(container_id)
        if not (network and endpoint and attachment and sandbox) or attachment.phase is not Phase.READY:
            return None
        return RuntimeAttachment(network, endpoint, attachment, sandbox)

    async def add(self, spec: AttachSpec) -> RuntimeAttachment:
        """Attach a container: find or create the network, create an endpoint, and join.

        Raises:
            Error: ``INVALID`` it is attached already, or the network differs from the request; otherwise as
                :meth:`Networks.create`, :meth:`Endpoints.create` and :meth:`Sandboxes.join`. Nothing is left behind.
        """
        return await self._operations.run(self._add(spec))

    async def delete(self, network_name: str, container_id: str, interface: str, netns: str) -> None:
        """Delete an attachment with its endpoint; do nothing when it is absent, or that of another namespace in use.

        Args:
            network_name: the network.
            container_id: the container.
            interface: the interface's name.
            netns: the path of the namespace; empty: unknown. Two runtimes may use one id, and each deletes its own.

        Raises:
            Error: ``INTERNAL`` with all failures; the same call finishes the work.
        """
        await self._operations.run(self._delete(network_name, container_id, interface, netns))

    async def delete_others(self, network_name: str, valid: Set[tuple[str, str]]) -> None:
        """Delete all attachments of runtimes to a network but the valid ones, past errors.

        Args:
            network_name: the network.
            valid: container ids with interface names.

        Raises:
            Error: ``INTERNAL`` with all failures.
        """
        await self._operations.run(self._delete_others(network_name, valid))

    def default_routes(self, attached: RuntimeAttachment) -> Sequence[DefaultRoute]:
        """Return the container's default routes that lead through the attachment."""
        routes = self._routes.default(attached.sandbox)
        return [route for route in routes if route.interface == attached.attachment.interface]

    def name_servers(self, attached: RuntimeAttachment) -> Sequence[Address]:
        """Return the name servers that the container can query: the resolver, else those of the join."""
        resolver = self._resolver_sync
        served = resolver.service is not None and not resolver.why_not_served(attached.sandbox)
        if not served:
            return attached.sandbox.dns
        return (ADDRESS, *(gateway.ip for gateway in dns_gateways(attached.network, is_machine=False)))

    # Adding.

    async def _add(self, spec: AttachSpec) -> RuntimeAttachment:
        join = spec.join
        async with self._hold(join.container_id, join.interface):
            await self._remove_leftovers(spec)
            network, is_new = await self._network(spec)
            self._attaching[network.id] += 1
            try:
                return await self._attach(network, spec)
            except BaseException:
                if is_new and self._attaching[network.id] == 1 and not self._records.endpoints_of(network.id):
                    await roll_back(f"network {network.name}", self._removal.network_within(network.id))
                raise
            finally:
                self._attaching -= Counter((network.id,))  # which forgets what is zero

    async def _attach(self, network: Network, spec: AttachSpec) -> RuntimeAttachment:
        endpoint = await self._endpoint(network, spec)
        try:
            sandbox = await self._sandboxes.join_within(endpoint.id, spec.join)
        except BaseException:
            await roll_back(f"endpoint {endpoint.name}", self._removal.endpoint_within(endpoint.id, force=True))
            raise
        attachment = self._records.attachment(sandbox.container_id, endpoint.id)
        joined = self._records.endpoint(endpoint.id)
        if attachment is None or joined is None:
            message = f"container {sandbox.container_id} was detached again while it was attached"
            raise Error(Kind.CONFLICT, message, "attach it again", "detached")
        return RuntimeAttachment(network, joined, attachment, sandbox)

    async def _network(self, request: AttachSpec) -> tuple[Network, bool]:
        """Return the network of the spec's name, and whether it was created for this request."""
        spec = request.network
        if found := self._networks.list(name=spec.name):
            return _matching(found[0], request), False
        try:
            return await self._networks.create_within(spec), True
        except Error as failure:
            if failure.kind is not Kind.NAME_TAKEN:
                raise
            await self._networks.creation_ended(spec.name)  # another request creates it
            if found := self._networks.list(name=spec.name):
                return _matching(found[0], request), False
            raise

    async def _endpoint(self, network: Network, spec: AttachSpec) -> Endpoint:
        free = [name for name in spec.names if not self._records.endpoints_named(name, network.id)]
        names = free or spec.names[-1:]
        for name in names:
            try:
                return await self._endpoints.create_within(network, replace(spec.endpoint, name=name))
            except Error as failure:  # another request has taken it in the meantime
                if failure.kind is not Kind.NAME_TAKEN or name == names[-1]:
                    raise
        raise AssertionError("unreachable: there is always a name")

    async def _remove_leftovers(self, spec: AttachSpec) -> None:
        """Remove the container's sandbox if its namespace is not in use any more, and what it left behind.

        Raises:
            Error: ``INVALID`` with code ``already_joined``: the attachment exists.
        """
        join = spec.join
        known = self._records.sandbox(join.container_id)
        if known and known.watched_path and not await self._namespace_use.is_in_use(known):
            await self._removal.remove_exited(known)
        endpoint = self._owned("", join.container_id, join.interface)
        if endpoint is None:
            return
        if any(each.phase is Phase.READY for each in self._records.attachments_of_endpoint(endpoint.id)):
            message = f"interface {join.interface} of container {join.container_id} is attached already"
            raise invalid(message, "delete the attachment first", "already_joined")
        await self._removal.endpoint_within(endpoint.id, force=True)

    # Deleting.

    async def _delete(self, network_name: str, container_id: str, interface: str, netns: str) -> None:
        async with self._hold(container_id, interface):
            endpoint = self._owned(network_name, container_id, interface)
            if endpoint and not await self._is_of_another(container_id, netns):
                await self._removal.endpoint_within(endpoint.id, force=True)

    async def _is_of_another(self, container_id: str, netns: str) -> bool:
        """Return whether the container of that id is in another namespace than ``netns``, which is in use."""
        sandbox = self._records.sandbox(container_id)
        if not netns or sandbox is None:
            return False
        use = self._namespace_use
        return await use.is_at_another(netns, sandbox) and await use.is_in_use(sandbox)

    async def _delete_others(self, network_name: str, valid: Set[tuple[str, str]]) -> None:
        owners = {runtime_owner(*each) for each in valid}
        endpoints = [
            endpoint
            for network in self._records.networks_named(network_name)
            for endpoint in self._records.endpoints_of(network.id)
            if endpoint.owner.startswith(RUNTIME_OWNER) and endpoint.owner not in owners
        ]
        failures = await gather_errors(*(self._removal.remove_exited_endpoint(each.id) for each in endpoints))
        if failures:
            raise collected(f"not all old attachments to network {network_name} are deleted; repeat it", failures)

    def _owned(self, network_name: str, container_id: str, interface: str) -> Endpoint | None:
        """Return the endpoint of an attachment, in any phase, on the network of that name; empty: on any."""
        for endpoint in self._records.endpoints_owned(runtime_owner(container_id, interface)):
            network = self._records.network(endpoint.network_id)
            if not network_name or (network and network.name == network_name):
                return endpoint
        return None

    def _hold(self, container_id: str, interface: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock of one attachment: a runtime may repeat a call before the first one has ended."""
        return self._locks.hold(f"attachment/{container_id}/{interface}")


def _matching(network: Network, request: AttachSpec) -> Network:
    """Return the network if it has what the request names.

    Raises:
        Error: ``INVALID``.
    """
    options = request.network.options
    if network.ipv4 is None and not network.leases_addresses:
        message = f"network {network.name} ({network.driver}) gives no interface with an address"
        raise invalid(message, "name a network of type bridge", "no_interface")
    named = (
        ("type", request.network.driver if request.names_driver else None, network.driver),
        ("parent", options.parent, network.options.parent),
        ("mode", options.macvlan_mode, network.options.macvlan_mode or MACVLAN_MODES[0]),
        ("IPAM driver", options.ipam_driver, network.options.ipam_driver),
        ("subnet", options.subnet, network.ipv4 and network.ipv4.prefix),
        ("gateway", options.gateway, network.ipv4 and network.ipv4.gateway),
        ("range", options.ip_range, network.ipv4 and network.ipv4.range),
        ("subnet", options.subnet_ipv6, network.ipv6 and network.ipv6.prefix),
        ("gateway", options.gateway_ipv6, network.ipv6 and network.ipv6.gateway),
        ("MTU", options.mtu, network.options.mtu),
    )
    for what, requested, present in named:
        if requested is not None and requested != present:
            message = f"network {network.name} has the {what} {present or 'none'}, and not {requested}"
            raise invalid(message, "let both agree, or leave it out of the configuration", "network_differs")
    if options.internal and not network.options.internal:
        message = f"network {network.name} is not internal, as the configuration requests"
        raise invalid(message, "delete the network, or leave internal out of the configuration", "network_differs")
    return network
