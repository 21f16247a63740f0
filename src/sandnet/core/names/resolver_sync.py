"""What the resolver is told: names and askers, derived from records.

A network knows each of its endpoints by name and aliases, at the endpoint's address (of a service with
several backends that one address). It knows each container by its host name and id, at the address of the
container's own interface. What a join calls ``aliases`` is known to that sandbox alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sandnet.core.state.records import Records
from sandnet.dns.base import Alias, Change, NameService, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.model import Address, Attachment, Endpoint, Network, Origin, Phase, Sandbox
from sandnet.model.ids import bare

SHORT_ID = 12
"""Characters of a container id by which its neighbours may call it."""


class ResolverSync:
    """Keeps the resolver's view equal to the records."""

    def __init__(self, records: Records, service: NameService | None) -> None:
        self._records = records
        self._service = service

    @property
    def serves(self) -> bool:
        """Whether there is a resolver; without one, names stand in hosts files."""
        return self._service is not None

    def problem(self) -> str:
        """What is wrong with the resolver, in words; empty when nothing is."""
        return self._service.problem() if self._service else ""

    @property
    def service(self) -> NameService | None:
        """The resolver itself."""
        return self._service

    def why_not_served(self, sandbox: Sandbox) -> str:
        """Why the resolver does not serve a sandbox, in words; empty when it does."""
        if sandbox.origin is Origin.HOST:
            return f"container {sandbox.container_id} is on the host's network and asks the host's own name servers"
        if not self._linked(sandbox):
            return f"container {sandbox.container_id} has no interface, and so nobody to ask for names"
        return ""

    async def replace(self) -> None:
        """Tell the resolver everything, at start-up."""
        if self._service:
            await self._service.replace([*self._all()])

    async def endpoint_added(self, network: Network, endpoint: Endpoint) -> None:
        """In force when this returns."""
        await self._apply(_endpoint_names(network, endpoint))

    async def endpoint_removed(self, endpoint: Endpoint) -> None:
        """In force when this returns."""
        await self._apply([RemoveNames(network_id=endpoint.network_id, owner=endpoint.id)])

    async def attachment_added(self, sandbox: Sandbox, attachment: Attachment) -> None:
        """The container can ask, and its neighbours know it; in force when this returns."""
        await self._apply([*self._container_names(sandbox, attachment), *self._client(sandbox)])

    def prepare(self, sandbox: Sandbox) -> None:
        """Open the sockets at which a new sandbox will ask; call it on a worker thread."""
        if self._service:
            self._service.prepare(sandbox.container_id, sandbox.key, sandbox.inode)

    async def attachments_removed(self, attachments: Iterable[Attachment]) -> None:
        """No answer holds them when this returns; call it while they are being removed."""
        await self._apply(change for attachment in attachments for change in self._without(attachment))

    def _without(self, attachment: Attachment) -> Iterator[Change]:
        yield RemoveNames(network_id=attachment.network_id, owner=_owner(attachment))
        sandbox = self._records.sandbox(attachment.container_id)
        asker: list[Change] = [*self._client(sandbox)] if sandbox else []
        yield from asker or [RemoveClient(container_id=attachment.container_id)]

    async def _apply(self, changes: Iterable[Change]) -> None:
        changes = [*changes]
        if self._service and changes:
            await self._service.apply(*changes)

    def _all(self) -> Iterator[Change]:
        for network in self._records.networks():
            for endpoint in self._records.endpoints_of(network.id):
                if endpoint.phase is Phase.READY:
                    yield from _endpoint_names(network, endpoint)
        for sandbox in self._records.sandboxes():
            for attachment in self._linked(sandbox):
                yield from self._container_names(sandbox, attachment)
            yield from self._client(sandbox)

    def _container_names(self, sandbox: Sandbox, attachment: Attachment) -> Iterator[Change]:
        network = self._records.network(attachment.network_id)
        addresses = _addresses(attachment)
        if network and addresses:
            full = f"{sandbox.host_name}.{sandbox.domain_name}" if sandbox.host_name and sandbox.domain_name else ""
            names = (sandbox.host_name, full, sandbox.container_id[:SHORT_ID], sandbox.container_id)
            yield SetNames(
                network_id=network.id,
                network=network.name.lower(),
                owner=_owner(attachment),
                names=tuple(dict.fromkeys(name.lower() for name in names if name)),
                addresses=addresses,
            )

    def _client(self, sandbox: Sandbox) -> Iterator[Change]:
        attachments = self._linked(sandbox)
        networks = [net for net in (self._records.network(a.network_id) for a in attachments) if net]
        if networks and sandbox.origin is not Origin.HOST and sandbox.phase is not Phase.REMOVING:
            yield SetClient(
                container_id=sandbox.container_id,
                key=sandbox.key,
                inode=sandbox.inode,
                networks=tuple(dict.fromkeys(net.id for net in networks)),
                aliases=tuple(alias for attachment in attachments for alias in self._aliases(attachment)),
                upstreams=sandbox.dns,
                inside=_held_inside(sandbox, networks),
                external=any(not net.options.internal for net in networks),
            )

    def _aliases(self, attachment: Attachment) -> Iterator[Alias]:
        endpoint = self._records.endpoint(attachment.endpoint_id)
        addresses = _addresses(endpoint) if endpoint else ()
        yield from (Alias(name=name.lower(), addresses=addresses) for name in attachment.aliases if addresses)

    def _linked(self, sandbox: Sandbox) -> list[Attachment]:
        found = self._records.attachments_of_container(sandbox.container_id)
        return [a for a in found if a.interface and a.phase is not Phase.REMOVING]


def _held_inside(sandbox: Sandbox, networks: Sequence[Network]) -> tuple[Address, ...]:
    """Servers of a sandbox to ask from inside alone: those on its networks.

    A namespace that was joined may have further interfaces. On internal networks only, nothing is asked for it from the
    host, so all its servers are asked from inside. Else a server at a bridge's address is the host's own program, which
    the host reaches and the sandbox may not.
    """
    subnets = [subnet for net in networks for subnet in (net.ipv4, net.ipv6) if subnet]
    closed = all(net.options.internal for net in networks)
    own = set() if closed else {subnet.bridge.ip for subnet in subnets if subnet.bridge}
    anywhere = closed and sandbox.origin is Origin.JOINED
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


def _addresses(holder: Endpoint | Attachment) -> tuple[Address, ...]:
    return tuple(interface.ip for interface in (holder.address, holder.address_ipv6) if interface)


def _owner(attachment: Attachment) -> str:
    return f"{attachment.container_id}/{attachment.endpoint_id}"
