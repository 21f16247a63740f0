"""Derive the resolver's names and clients from the records, and keep the resolver up to date.

A network has a name for each of its endpoints, and its aliases, at the endpoint's address (for a service with several
backends, its one address). It has names for each container, by host name and id, at the address of the container's own
interface. The ``aliases`` of a join are visible to that sandbox alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from sandnet.core.state.records import Records
from sandnet.dns.base import Alias, Change, NameService, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.kernel.types import PreparedSandbox
from sandnet.model import Address, Attachment, Endpoint, Interface, Network, Origin, Phase, Sandbox
from sandnet.model.ids import bare
from sandnet.model.name_server import gateway_socket
from sandnet.model.network import dns_gateways
from sandnet.model.remote_attachment import RemoteAttachment

_ASKING_INSIDE: Final = frozenset({Origin.MADE, Origin.JOINED, Origin.EXTERNAL})
"""Origins of sandboxes in whose namespaces the resolver listens."""
SHORT_ID = 12
"""Characters of a container id that its neighbours can use as a name."""


MOST_LEASED_SERVERS = 3
"""Name servers of DHCP servers that a sandbox queries, as many as a resolv.conf has (resolv.conf(5))."""


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
            return f"container {sandbox.container_id} is a virtual machine, and its networks' gateways do not answer it"
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
        beside = self._sharing(attachment)
        return self._apply([*self._container_names(sandbox, attachment), *self._clients(sandbox), *beside])

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
        if sandbox:
            yield from self._clients(sandbox, [attachment])
        else:
            yield _removed(attachment.container_id)
        yield from self._sharing(attachment)

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
            yield from self._clients(sandbox)
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

    def _clients(self, sandbox: Sandbox, leaving: Sequence[Attachment] = ()) -> Iterator[Change]:
        """Yield the sandbox as a client at each place where it can ask, and remove it where it cannot any more.

        A place is the inside of its namespace, or the gateway of its networks over one version of IP.

        Args:
            sandbox: the sandbox.
            leaving: attachments that are being removed.
        """
        attachments = self._linked(sandbox)
        networks = [net for net in (self._records.network(a.network_id) for a in attachments) if net]
        found = {}
        if networks and sandbox.phase is not Phase.REMOVING:
            found = {each.container_id: each for each in self._places(sandbox, attachments, networks)}
        yield from found.values()
        places = [gateway_client(sandbox, version) for version in self._versions_asked([*attachments, *leaving])]
        former = [sandbox.container_id, *places] if leaving else places
        yield from (_removed(place) for place in dict.fromkeys(former) if place not in found)

    def _places(
        self, sandbox: Sandbox, attachments: Sequence[Attachment], networks: Sequence[Network]
    ) -> Iterator[SetClient]:
        external = sandbox.origin is Origin.EXTERNAL
        common = SetClient(
            container_id=sandbox.container_id,
            key="",
            inode=0,
            networks=tuple(dict.fromkeys(net.id for net in networks)),
            aliases=tuple(alias for attachment in attachments for alias in self._aliases(attachment)),
            upstreams=sandbox.dns,
            external=any(not net.options.internal for net in networks),
        )
        leased = () if external else self._leased_servers(attachments)
        if sandbox.origin in _ASKING_INSIDE and (bool(sandbox.inode) or not external):
            yield replace(
                common,
                key=sandbox.key,
                inode=sandbox.inode,
                beside_another=external,
                upstreams=sandbox.dns or leased,
                inside=_queried_inside(sandbox, networks) if sandbox.dns else leased,
            )
        for version, sources in self._sources(sandbox).items():
            listen = gateway_socket(sandbox.container_id, version)
            yield replace(common, container_id=gateway_client(sandbox, version), listen=listen, sources=sources)

    def _versions_asked(self, attachments: Iterable[Attachment]) -> list[int]:
        """Return the versions of IP over which gateways of these attachments' networks answer."""
        return sorted({gateway.version for each in attachments for gateway in self._gateways(each)})

    def _gateways(self, attachment: Attachment) -> Sequence[Interface]:
        network = self._records.network(attachment.network_id)
        return dns_gateways(network, is_machine=attachment.tap is not None) if network else ()

    def _sources(self, sandbox: Sandbox) -> dict[int, tuple[Address, ...]]:
        """Return the addresses from which a sandbox asks at gateways, by version: only those that cannot be forged.

        Every backend of a service may send from its address, so it is no backend's own.
        """
        found: dict[int, tuple[Address, ...]] = {}
        for attachment in self._linked(sandbox):
            endpoint = self._records.endpoint(attachment.endpoint_id)
            shared = set(_addresses(endpoint)) if endpoint and self._mates(attachment) else set()
            own = [each.ip for each in attachment.addresses if each.ip not in shared]
            for version in {gateway.version for gateway in self._gateways(attachment)}:
                if sources := tuple(each for each in own if each.version == version):
                    found[version] = (*found.get(version, ()), *sources)
        return found

    def _mates(self, attachment: Attachment) -> list[Attachment]:
        """Return the other backends of the attachment's service on this host."""
        found = self._records.attachments_of_endpoint(attachment.endpoint_id)
        return [a for a in found if a.container_id != attachment.container_id and a.phase is not Phase.REMOVING]

    def _sharing(self, attachment: Attachment) -> Iterator[Change]:
        """Yield other backends of a service as clients: its address may be shared now, or not any more."""
        for mate in self._mates(attachment) if self._gateways(attachment) else ():
            sandbox = self._records.sandbox(mate.container_id)
            if sandbox:
                yield from self._clients(sandbox)

    def _leased_servers(self, attachments: Iterable[Attachment]) -> tuple[Address, ...]:
        """Return the name servers of the segments that a sandbox is a machine of."""
        found = (self._records.endpoint(attachment.endpoint_id) for attachment in attachments)
        servers = dict.fromkeys(server for each in found if each and each.lease for server in each.lease.dns)
        return tuple(servers)[:MOST_LEASED_SERVERS]

    def _aliases(self, attachment: Attachment) -> Iterator[Alias]:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        addresses = _addresses(endpoint) if endpoint else ()
        yield from (Alias(name=name.lower(), addresses=addresses) for name in attachment.aliases if addresses)

    def _linked(self, sandbox: Sandbox) -> list[Attachment]:
        found = self._records.attachments_of_container(sandbox.container_id)
        return [a for a in found if a.interface and a.phase is not Phase.REMOVING]


def gateway_client(sandbox: Sandbox, version: int) -> str:
    """Return the id of a sandbox as a client that asks its gateway over a version of IP; no container has such an id.

    A virtual machine has no other place over IPv4, so it is known by its own id there.
    """
    return (
        sandbox.container_id if sandbox.origin is Origin.GUEST and version == 4 else f"{sandbox.container_id}/{version}"
    )


def _removed(client: str) -> RemoveClient:
    return RemoveClient(container_id=client)


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
            additional_addresses=tuple(each.ip for each in endpoint.additional_addresses),
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
