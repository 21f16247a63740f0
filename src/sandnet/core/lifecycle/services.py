"""Services: endpoints of all networks by name, and the containers behind them."""

from __future__ import annotations

from collections.abc import Sequence

from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.endpoints import Endpoints, ready
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.references import attached_id, resolve
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.state.records import Records
from sandnet.errors import Error, Kind, not_found
from sandnet.model import Attachment, Endpoint, EndpointSpec, JoinSpec, Network, Phase, Sandbox
from sandnet.model.remote_attachment import RemoteAttachment


class Services:
    """The services of all networks: the same objects and ids as their endpoints."""

    def __init__(
        self,
        records: Records,
        default_network: str,
        networks: Networks,
        endpoints: Endpoints,
        sandboxes: Sandboxes,
        backends: Backends,
        removal: Deletion,
    ) -> None:
        self._records = records
        self._default_network = default_network
        self._networks = networks
        self._endpoints = endpoints
        self._sandboxes = sandboxes
        self._removal = removal
        self._backends = backends

    def list(
        self, name: str | None = None, partial_id: str | None = None, network: str | None = None
    ) -> list[Endpoint]:
        """Return the services that are ready, in creation order; of an unknown network none.

        Args:
            name: the exact name; at most one of these filters is given.
            partial_id: a prefix of the id.
            network: the network, by id, name or unique id prefix.
        """
        if name is not None:
            return ready(self._records.endpoints_named(name))
        if network is not None:
            return [ep for net in self._matching(network) for ep in self._endpoints.list(net)]
        return [ep for ep in ready(self._records.endpoints()) if partial_id is None or ep.id.startswith(partial_id)]

    def find(self, ref: str) -> Endpoint:
        """Return the service with that id, name or unique id prefix.

        Raises:
            Error: ``NOT_FOUND`` or ``INVALID`` (ambiguous).
        """
        exact = self._records.endpoint(ref)
        usable = exact if exact and exact.phase is Phase.READY else None
        return resolve("service", ref, usable, ready(self._records.endpoints_named(ref)), self.list)

    async def publish(self, network_name: str, spec: EndpointSpec) -> Endpoint:
        """Create an endpoint on the named network, or on the default one when the name is empty.

        Raises:
            Error: as :meth:`Endpoints.create`.
        """
        return await self._endpoints.create(network_name or self._default().id, spec)

    async def unpublish(self, ref: str, *, force: bool = False) -> None:
        """Delete the service.

        Raises:
            Error: as :meth:`Deletion.endpoint`.
        """
        leftovers = [ep for ep in self._records.endpoints_named(ref) if ep.phase is Phase.REMOVING]
        exact = self._records.endpoint(ref)
        endpoint = exact or (leftovers[0] if leftovers else self.find(ref))
        await self._removal.endpoint(endpoint.network_id, endpoint.id, force=force)

    async def attach(self, ref: str, spec: JoinSpec) -> Sandbox:
        """Join a container to the service, as its first or as an additional backend.

        Raises:
            Error: as :meth:`Sandboxes.join`.
        """
        endpoint = self.find(ref)
        return await self._sandboxes.join(endpoint.network_id, endpoint.id, spec, many=True)

    async def detach(self, ref: str, container_id: str) -> None:
        """Remove a container from the service.

        Raises:
            Error: as :meth:`Sandboxes.leave`.
        """
        endpoint = self.find(ref)
        await self._sandboxes.leave(endpoint.network_id, endpoint.id, container_id)

    async def change_backend(
        self, ref: str, container_id: str, *, drained: bool | None = None, weight: int | None = None
    ) -> None:
        """Change one backend; see :meth:`Backends.change`."""
        service = self.find(ref)
        container_id = attached_id(
            container_id,
            self._records.attachments_of_endpoint(service.id),
            known=self._records.sandbox(container_id) is not None,
        )
        await self._backends.change(service, container_id, drained=drained, weight=weight)

    def backends(self, endpoint: Endpoint) -> Sequence[Attachment]:
        """Return the attachments to a service, the first attached first."""
        attached = self._records.attachments_of_endpoint(endpoint.id)
        return [attachment for attachment in attached if attachment.phase is Phase.READY]

    def remote_backends(self, endpoint: Endpoint) -> Sequence[RemoteAttachment]:
        """Return the attachments to a service on other hosts."""
        return self._records.remote.of_endpoint(endpoint.id)

    def _default(self) -> Network:
        network = self._networks.default()
        if network is None:
            name = self._default_network
            raise not_found("network", name, "it is the default network; name another, or create it")
        return network

    def _matching(self, ref: str) -> Sequence[Network]:
        """Return the networks with that name, id or unique id prefix; none if there is no such network."""
        named = self._networks.list(name=ref)
        try:
            return named or [self._networks.find(ref)]
        except Error as failure:
            if failure.kind is Kind.NOT_FOUND:
                return []
            raise
