"""Networks, endpoints and joins of container engines: idempotent verbs over the daemon's own ones.

An engine's network is one of the daemon's with the same id, or an existing one that the engine uses together with
others (``shared``). Engines repeat verbs, leave some out after a crash, and end what does not exist: all of that
succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from posixpath import basename
from typing import Final, NamedTuple

from msgspec.structs import replace

from sandnet.core.engine.containers import EngineContainers
from sandnet.core.engine.ipam import EngineIpam
from sandnet.core.lifecycle.default_routes import gateways_of
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.runtime.locks import Locks
from sandnet.core.state.engine_records import EngineNetwork, EngineRecords
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.model import (
    Address,
    Attachment,
    Endpoint,
    EndpointSpec,
    JoinSpec,
    Network,
    NetworkOptions,
    NetworkSpec,
    Phase,
    PortMapping,
    Prefix,
)

NETWORK_LABEL: Final = "docker.network"
"""Label of networks and endpoints: the id of the engine's network."""
_SHORT: Final = 12


class EngineNetworkSpec(NamedTuple):
    """A validated request of an engine to create a network."""

    id: str
    """64 hex digits, chosen by the engine."""
    options: NetworkOptions
    shared: str = ""
    """The existing network to use; ``options`` are not used then."""
    pools: tuple[Prefix, ...] = ()
    """The pools of the engine's IPAM."""


class Joined(NamedTuple):
    """What an engine needs to set up an interface in a container."""

    link: str
    """The link on the host that it moves into the container's namespace."""
    gateway: Address | None
    gateway_ipv6: Address | None


class EngineNetworks:
    """The networks of container engines."""

    def __init__(
        self,
        records: Records,
        engine_records: EngineRecords,
        ipam: EngineIpam,
        containers: EngineContainers,
        locks: Locks,
        lifecycle: tuple[Networks, Endpoints, Sandboxes, Deletion],
    ) -> None:
        """Initialize without any request.

        Args:
            records: networks, endpoints, attachments.
            engine_records: the engines' claims.
            ipam: the pools and addresses.
            containers: serves names to the containers that have joined.
            locks: those of all objects.
            lifecycle: the daemon's own verbs.
        """
        self._records = records
        self._engine = engine_records
        self._ipam = ipam
        self._containers = containers
        self._locks = locks
        self._networks, self._endpoints, self._sandboxes, self._removal = lifecycle

    async def create(self, spec: EngineNetworkSpec) -> None:
        """Create a network, or use an existing one; an engine's network that exists is success.

        Raises:
            Error: as :meth:`Networks.create`; ``NOT_FOUND``, ``INVALID`` for one to be shared.
        """
        async with self._locks.hold(f"engine/{spec.id}"):
            if self._find(spec.id):
                return
            await (self._share(spec) if spec.shared else self._create(spec))

    async def delete(self, network_id: str) -> None:
        """Delete an engine's network; an absent one is success. A shared one loses this engine's endpoints only.

        Raises:
            Error: ``IN_USE``: others have endpoints on it.
        """
        async with self._locks.hold(f"engine/{network_id}"):
            net = self._find(network_id)
            if net:
                for endpoint in self._records.endpoints_of(net.id):
                    if endpoint.labels.get(NETWORK_LABEL) == network_id:
                        await self._delete_endpoint(net, endpoint.id)
            if shared := self._engine.networks.get(network_id):
                for pool_id in shared.pools:
                    await self._engine.delete_pool(pool_id)
                await self._engine.delete_network(network_id)
            elif net or self._records.network(network_id):
                await self._removal.network(network_id)
                if net:
                    await self._ipam.forget_claims(net)

    async def create_endpoint(self, network_id: str, spec: EndpointSpec) -> Endpoint:
        """Create an endpoint; return it also if it exists.

        Raises:
            Error: as :meth:`Endpoints.create`.
        """
        async with self._locks.hold(f"engine/{spec.id}"):
            net = self._get(network_id)
            known = self._records.endpoint(spec.id)
            if known and known.phase is Phase.READY:
                return known
            labels = {**spec.labels, NETWORK_LABEL: network_id}
            spec = replace(spec, name=f"docker-{spec.id[:_SHORT]}", labels=labels, claimed=True)
            return await self._endpoints.create(net.id, spec)

    async def delete_endpoint(self, network_id: str, endpoint_id: str) -> None:
        """Delete an endpoint with what is attached to it; an absent one is success."""
        async with self._locks.hold(f"engine/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            net = self._records.network(endpoint.network_id) if endpoint else None
            if net:
                await self._delete_endpoint(net, endpoint_id)

    async def join(self, network_id: str, endpoint_id: str, sandbox_key: str) -> Joined:
        """Make the link of an endpoint for the namespace that an engine will pin at ``sandbox_key``.

        Raises:
            Error: as :meth:`Sandboxes.join`.
        """
        sandbox_key = await self._containers.key_of(sandbox_key)
        async with self._locks.hold(f"engine/{endpoint_id}"):
            net, endpoint = self._get(network_id), self._endpoint(endpoint_id)
            attachment = await self._joined(endpoint_id, sandbox_key)
            if attachment is None:
                spec = JoinSpec(container_id=basename(sandbox_key), external_key=sandbox_key)
                await self._sandboxes.join(net.id, endpoint_id, spec)
                (attachment,) = self._records.attachments_of_endpoint(endpoint_id)
                self._containers.follow(spec.container_id)
            hops = gateways_of(net)
            gateway_ipv6 = hops.ipv6 if endpoint.address_ipv6 else None
            return Joined(attachment.interface, hops.ipv4 if endpoint.address else None, gateway_ipv6)

    async def publish(self, network_id: str, endpoint_id: str, mappings: Sequence[PortMapping]) -> None:
        """Publish ports of an endpoint; one that has published ports is left as it is.

        Raises:
            Error: ``NOT_FOUND``, ``CONFLICT`` (a port is taken), ``INVALID`` (its network publishes none).
        """
        async with self._locks.hold(f"engine/{endpoint_id}"):
            self._get(network_id)
            if mappings and not self._endpoint(endpoint_id).is_published:
                await self._sandboxes.publish(endpoint_id, mappings)

    async def unpublish(self, endpoint_id: str) -> None:
        """Withdraw the published ports of an endpoint; an absent one is success."""
        async with self._locks.hold(f"engine/{endpoint_id}"):
            endpoint = self._records.endpoint(endpoint_id)
            if endpoint and endpoint.is_published and endpoint.phase is Phase.READY:
                await self._sandboxes.unpublish(endpoint_id)

    def check_endpoint(self, endpoint_id: str) -> None:
        """Check that an endpoint exists.

        Raises:
            Error: ``NOT_FOUND``.
        """
        self._endpoint(endpoint_id)

    def has(self, net: Network) -> bool:
        """Return whether a container engine has this network among its own, with containers or without."""
        return NETWORK_LABEL in net.labels or any(each.network_id == net.id for each in self._engine.networks.values())

    # Networks.

    def _find(self, network_id: str) -> Network | None:
        shared = self._engine.networks.get(network_id)
        net = self._records.network(shared.network_id if shared else network_id)
        return net if net and net.phase is Phase.READY else None

    def _get(self, network_id: str) -> Network:
        net = self._find(network_id)
        if net is None:
            shared = self._engine.networks.get(network_id)
            hint = "it was deleted in sandnet; delete it in the engine, too" if shared else "create it again"
            raise not_found("network", network_id, hint)
        return net

    async def _share(self, spec: EngineNetworkSpec) -> None:
        net = self._networks.find(spec.shared)
        if not net.link:
            raise invalid(f"network {net.name} ({net.driver}) has no link that containers could share")
        subnets = [each.prefix for each in (net.ipv4, net.ipv6) if each]
        pools: list[str] = []
        for prefix in (each for each in spec.pools if each.prefixlen and each not in subnets):
            found = self._ipam.pools_with(prefix)
            if not found:
                message = f"network {net.name} has the subnet {subnets[0]}, and the engine's IPAM chose {prefix}"
                raise Error(Kind.CONFLICT, message, "create it with --ipam-driver sandnet", "subnet_differs")
            pools += found
        await self._engine.put_network(EngineNetwork(id=spec.id, network_id=net.id, pools=tuple(pools)))

    async def _create(self, spec: EngineNetworkSpec) -> None:
        pools = [prefix for prefix in spec.pools if prefix.prefixlen]
        options = spec.options
        for prefix in pools:
            within = self._ipam.range_of(prefix)
            if isinstance(within, IPv4Network):
                options = replace(options, ip_range=within)
        name, labels = f"docker-{spec.id[:_SHORT]}", {NETWORK_LABEL: spec.id}
        driver = self._ipam.network_driver
        await self._networks.create(NetworkSpec(name=name, driver=driver, id=spec.id, options=options, labels=labels))
        for prefix in pools:
            await self._ipam.forget(prefix)

    # Endpoints.

    def _endpoint(self, endpoint_id: str) -> Endpoint:
        endpoint = self._records.endpoint(endpoint_id)
        if endpoint is None or endpoint.phase is not Phase.READY:
            raise not_found("endpoint", endpoint_id)
        return endpoint

    async def _delete_endpoint(self, net: Network, endpoint_id: str) -> None:
        try:
            await self._removal.endpoint(net.id, endpoint_id, force=True)
        except Error as failure:
            if failure.kind is not Kind.NOT_FOUND:
                raise

    async def _joined(self, endpoint_id: str, sandbox_key: str) -> Attachment | None:
        """Return the attachment to that sandbox, if its link exists; remove any other."""
        for attachment in self._records.attachments_of_endpoint(endpoint_id):
            sandbox = self._records.sandbox(attachment.container_id)
            if sandbox and sandbox.key == sandbox_key and attachment.phase is Phase.READY:
                try:
                    await self._sandboxes.ensure(sandbox, attachment)
                except Error as failure:
                    if failure.kind is not Kind.NOT_FOUND:
                        raise
                else:
                    return attachment
            await self._sandboxes.drop(attachment)
        return None
