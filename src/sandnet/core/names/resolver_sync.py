"""Derive the resolver's names and clients from the records, and keep the resolver up to date.

A network has a name for each of its endpoints, and its aliases, at the endpoint's address (for a service with several
backends, its one address). It has names for each container, by host name and id, at the address of the container's own
interface. The ``aliases`` of a join are visible to that sandbox alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from sandnet.core.state.records import Records
from sandnet.dns.base import Alias, Change, NameService, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.kernel.types import PreparedSandbox
from sandnet.model import Address, Attachment, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.ids import bare
from sandnet.model.name_server import guest_address
from sandnet.model.network import answers_guests
from sandnet.model.remote_attachment import RemoteAttachment

SHORT_ID = 12
"""Characters of a container id that its neighbours can use as a name."""


class ResolverSync:
    """Keeps the resolver's content equal to the records.

    A change is sent when its method is called, and is in force when the returned future is done. So a caller can do
    other work while the resolver does its part.
    """

    def __init__(self, records: Records, service: NameService | None) -> None:
        self._records = records
        self._service = service

    @property
    def serves(self) -> bool:
        """Whether there is a resolver; without one, names are in hosts files."""
        return self._service is not None

    def problem(self) -> str:
        """Return the problem of the resolver; empty when there is none."""
        return self._service.problem() if self._service else ""

    @property
    def service(self) -> NameService | None:
        """The resolver itself."""
        return self._service

    def why_not_served(self, sandbox: Sandbox) -> str:
        """Return why the resolver does not serve a sandbox; empty when it does."""
        if sandbox.origin is Origin.HOST:
            return f"container {sandbox.container_id} is on the host's network and asks the host's own name servers"
        if sandbox.origin is Origin.GUEST and not self._sources(sandbox):
            return f"container {sandbox.container_id} is a virtual machine, on networks without anti-spoofing only"
        if sandbox.origin is Origin.EXTERNAL and not sandbox.inode:
            return f"the container engine has not created the namespace of {sandbox.container_id} yet"
        if not self._linked(sandbox):
            return f"container {sandbox.container_id} has no interface, so it has no name server to query"
        return ""

    async def replace(self) -> None:
        """Send everything to the resolver, at start-up."""
        if self._service:
            await self._service.replace([*self._all()])

    def endpoint_added(self, network: Network, endpoint: Endpoint) -> asyncio.Future[None]:
        """Add an endpoint's names."""
        return self._apply(_endpoint_names(network, endpoint))

    def endpoint_removed(self, endpoint: Endpoint) -> asyncio.Future[None]:
        """Remove an endpoint's names."""
        return self._apply([RemoveNames(network_id=endpoint.network_id, owner=endpoint.id)])

    def attachment_added(self, sandbox: Sandbox, attachment: Attachment) -> asyncio.Future[None]:
        """Let the container query, and its neighbours find it."""
        return self._apply([*self._container_names(sandbox, attachment), *self._client(sandbox)])

    def adopt_sockets(self, sandbox: Sandbox, prepared: PreparedSandbox) -> None:
        """Pass the sockets in a prepared namespace, if it has any, to the resolver with the sandbox's first names."""
        if self._service and prepared.sockets:
            self._service.adopt_sockets(sandbox.container_id, prepared.inode, prepared.sockets)

    def needs_namespace(self, sandbox: Sandbox) -> bool:
        """Return whether sockets are opened at the key of a new sandbox, which must be pinned there by then.

        Those that listen were prepared with most namespaces; those that query a sandbox's own servers from inside were
        not.
        """
        unprepared = sandbox.origin is Origin.MADE and not sandbox.inode
        return sandbox.phase is Phase.CREATING and (bool(sandbox.dns) or unprepared)

    def attachments_removed(self, attachments: Iterable[Attachment]) -> asyncio.Future[None]:
        """Remove the names of attachments: no answer contains them when the result is done.

        Call it while they are being removed.
        """
        return self._apply(change for attachment in attachments for change in self._without(attachment))

    def remote_changed(self, gone: Iterable[RemoteAttachment], new: Iterable[RemoteAttachment]) -> asyncio.Future[None]:
        """Remove the names of containers on other hosts, and add others."""
        new = list(new)
        kept = {_remote_owner(each) for each in new}
        removed = [each for each in gone if _remote_owner(each) not in kept]
        changes: list[Change] = [RemoveNames(network_id=a.network_id, owner=_remote_owner(a)) for a in removed]
        return self._apply([*changes, *self._remote_names(new)])

    def _remote_names(self, attachments: Iterable[RemoteAttachment]) -> Iterator[Change]:
        for attachment in attachments:
            network, addresses = self._records.network(attachment.network_id), _addresses(attachment)
            if network and addresses:
                yield SetNames(
                    network_id=network.id,
                    network=network.name.lower(),
                    owner=_remote_owner(attachment),
                    names=_names_of_container(attachment),
                    addresses=addresses,
                )

    def _without(self, attachment: Attachment) -> Iterator[Change]:
        yield RemoveNames(network_id=attachment.network_id, owner=_owner(attachment))
        sandbox = self._records.sandbox(attachment.container_id)
        client: list[Change] = [*self._client(sandbox)] if sandbox else []
        yield from client or [RemoveClient(container_id=attachment.container_id)]

    def _apply(self, changes: Iterable[Change]) -> asyncio.Future[None]:
        changes = [*changes]
        if self._service and changes:
            return self._service.apply(*changes)
        nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def _all(self) -> Iterator[Change]:
        for network in self._records.networks():
            for endpoint in self._records.endpoints_of(network.id):
                if endpoint.phase is Phase.READY:
                    yield from _endpoint_names(network, endpoint)
        for sandbox in self._records.sandboxes():
            for attachment in self._linked(sandbox):
                yield from self._container_names(sandbox, attachment)
            yield from self._client(sandbox)
        yield from self._remote_names(self._records.remote.all())

    def _container_names(self, sandbox: Sandbox, attachment: Attachment) -> Iterator[Change]:
        network = self._records.network(attachment.network_id)
        addresses = _addresses(attachment)
        if network and addresses:
            yield SetNames(
                network_id=network.id,
                network=network.name.lower(),
                owner=_owner(attachment),
                names=_names_of_container(sandbox),
                addresses=addresses,
            )

    def _client(self, sandbox: Sandbox) -> Iterator[Change]:
        attachments = self._linked(sandbox)
        networks = [net for net in (self._records.network(a.network_id) for a in attachments) if net]
        external = sandbox.origin is Origin.EXTERNAL
        served = sandbox.origin is not Origin.HOST and (bool(sandbox.inode) or not external)
        sources = self._sources(sandbox) if sandbox.origin is Origin.GUEST else ()
        served = served and (bool(sources) or sandbox.origin is not Origin.GUEST)
        if networks and served and sandbox.phase is not Phase.REMOVING:
            yield SetClient(
                container_id=sandbox.container_id,
                key=sandbox.key,
                inode=sandbox.inode,
                beside_another=external,
                networks=tuple(dict.fromkeys(net.id for net in networks)),
                aliases=tuple(alias for attachment in attachments for alias in self._aliases(attachment)),
                upstreams=sandbox.dns,
                inside=() if sources else _queried_inside(sandbox, networks),
                listen=guest_address(sandbox.container_id) if sources else None,
                sources=sources,
                external=any(not net.options.internal for net in networks),
            )

    def _sources(self, sandbox: Sandbox) -> tuple[Address, ...]:
        """Return the addresses from which a virtual machine queries the resolver: only those that cannot be forged."""
        found = [(a, self._records.network(a.network_id)) for a in self._linked(sandbox)]
        return tuple(a.address.ip for a, net in found if a.address and net and answers_guests(net))

    def _aliases(self, attachment: Attachment) -> Iterator[Alias]:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        addresses = _addresses(endpoint) if endpoint else ()
        yield from (Alias(name=name.lower(), addresses=addresses) for name in attachment.aliases if addresses)

    def _linked(self, sandbox: Sandbox) -> list[Attachment]:
        found = self._records.attachments_of_container(sandbox.container_id)
        return [a for a in found if a.interface and a.phase is not Phase.REMOVING]


def _queried_inside(sandbox: Sandbox, networks: Sequence[Network]) -> tuple[Address, ...]:
    """Return the servers of a sandbox that are queried only from inside it: those on its networks.

    A joined namespace may have further interfaces. On internal networks only, the host queries nothing for it, so all
    its servers are queried from inside. Else a server at a bridge's address is the host's own program, which the host
    reaches and the sandbox may not.
    """
    subnets = [subnet for net in networks for subnet in (net.ipv4, net.ipv6) if subnet]
    internal_only = all(net.options.internal for net in networks)
    own = set() if internal_only else {subnet.host_address.ip for subnet in subnets if subnet.host_address}
    anywhere = internal_only and sandbox.origin is Origin.JOINED
    return tuple(
        server
        for server in sandbox.dns
        if not server.is_loopback
        and server not in own
        and (anywhere or any(server in subnet.prefix for subnet in subnets))
    )


def _endpoint_names(network: Network, endpoint: Endpoint) -> Iterator[Change]:
    addresses = _addresses(endpoint)
    if addresses:
        names = (bare(endpoint.name), *endpoint.aliases)
        yield SetNames(
            network_id=network.id,
            network=network.name.lower(),
            owner=endpoint.id,
            names=tuple(dict.fromkeys(name.lower() for name in names)),
            addresses=addresses,
        )


def _names_of_container(container: Sandbox | RemoteAttachment) -> tuple[str, ...]:
    host, domain = container.host_name, container.domain_name
    full = f"{host}.{domain}" if host and domain else ""
    names = (host, full, container.container_id[:SHORT_ID], container.container_id)
    return tuple(dict.fromkeys(name.lower() for name in names if name))


def _remote_owner(attachment: RemoteAttachment) -> str:
    return f"{attachment.host}/{attachment.container_id}/{attachment.endpoint_id}"


def _addresses(holder: Endpoint | Attachment | RemoteAttachment) -> tuple[Address, ...]:
    return tuple(interface.ip for interface in (holder.address, holder.address_ipv6) if interface)


def _owner(attachment: Attachment) -> str:
    return f"{attachment.container_id}/{attachment.endpoint_id}"
