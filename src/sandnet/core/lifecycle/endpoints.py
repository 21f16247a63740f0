"""Endpoints: find, list, create, delete. A service is an endpoint under another URL."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence

from msgspec.structs import replace

from sandnet.core.lifecycle.liveness import identify
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.references import resolve
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import roll_back
from sandnet.core.runtime.plugin_requests import asked
from sandnet.core.state.shared_writer import CHOICES, CLAIMED_ELSEWHERE, REQUESTED
from sandnet.drivers.base import PLUGIN_REFUSED, Driver, ExternalDriver, PortPublisher
from sandnet.drivers.interface_setup import check_additional_addresses
from sandnet.drivers.port_allocator import direct_ports
from sandnet.drivers.traffic_shaping import check_shaping
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.model import BoundPort, Endpoint, EndpointSpec, Network, Phase, PortMapping, Process
from sandnet.model.ids import new_id
from sandnet.model.ports import PROTOCOL_NAMES


class Endpoints:
    """The endpoints of all networks."""

    def __init__(self, context: Context, networks: Networks) -> None:
        self._context = context
        self._records = context.records
        self._networks = networks
        self._creating: set[str] = set()
        """Endpoints whose creation is in progress; any other that is not ready was left half-way."""

    def list(self, network: Network, name: str | None = None, partial_id: str | None = None) -> list[Endpoint]:
        """Return the endpoints of a network that are ready, in creation order."""
        if name is not None:
            return ready(self._records.endpoints_named(name, network.id))
        found = ready(self._records.endpoints_of(network.id))
        return [ep for ep in found if partial_id is None or ep.id.startswith(partial_id)]

    def get(self, endpoint_id: str) -> Endpoint:
        """Return the endpoint with that full id, in any phase.

        Raises:
            Error: ``NOT_FOUND``.
        """
        endpoint = self._records.endpoint(endpoint_id)
        if endpoint is None:
            raise not_found("endpoint", endpoint_id)
        return endpoint

    def find(self, network: Network, ref: str) -> Endpoint:
        """Return the endpoint of that network with that id, name or unique id prefix.

        Raises:
            Error: ``NOT_FOUND`` or ``INVALID`` (ambiguous).
        """
        exact = self._records.endpoint(ref)
        usable = exact if exact and exact.network_id == network.id and exact.phase is Phase.READY else None
        named = ready(self._records.endpoints_named(ref, network.id))
        return resolve("endpoint", ref, usable, named, lambda: self.list(network))

    async def create(self, network_ref: str, spec: EndpointSpec) -> Endpoint:
        """Create an endpoint. It keeps its address, MAC and host ports until it is deleted.

        Raises:
            Error: ``NOT_FOUND``, ``NAME_TAKEN``, ``CONFLICT`` (address or port), ``EXHAUSTED``; nothing is left behind.
        """
        network = self._networks.find(network_ref)
        return await self._context.operations.run(self.create_within(network, spec))

    def deletable(self, network: Network, ref: str) -> Endpoint:
        """Return the endpoint as :meth:`find` does, or one that an earlier delete could not remove."""
        named = self._records.endpoints_named(ref, network.id)
        exact = self._records.endpoint(ref)
        candidates = [*named, *([exact] if exact and exact.network_id == network.id else [])]
        leftovers = [ep for ep in candidates if ep.phase is Phase.REMOVING]
        return leftovers[0] if leftovers else self.find(network, ref)

    async def create_within(self, network: Network, spec: EndpointSpec) -> Endpoint:
        """Create an endpoint as :meth:`create` does, as part of an operation in progress."""
        driver = self._context.drivers.working(network.driver)
        await self.finish_interrupted(network, spec.name)
        self._refuse_taken(network, spec.name)
        check_shaping(driver, network, spec.bandwidth)
        check_additional_addresses(network, spec)
        process = await identify(self._context.kernel, self._context.workers, spec.watch_pid)
        try:
            ports = await self._bind(driver, network, spec.port_mapping)
        except Error as failure:
            raise self._with_holder(failure, spec) from failure
        endpoint_id = spec.id or new_id()
        async with self._context.locks.hold(f"endpoint/{endpoint_id}"):  # a deletion of the network waits for this
            self._creating.add(endpoint_id)
            try:
                endpoint = await self._reserved(network, endpoint_id, spec, ports, process)
                endpoint = await self._make(network, endpoint) if endpoint.phase is Phase.CREATING else endpoint
            finally:
                self._creating.discard(endpoint_id)
        self._context.host_files.changed(endpoint, network)
        await self._context.host_files.flush()
        return endpoint

    async def _bind(self, driver: Driver, network: Network, mappings: Sequence[PortMapping]) -> tuple[BoundPort, ...]:
        """Hold the requested host ports: all of them or none."""
        if not mappings:
            return ()
        if not isinstance(driver, PortPublisher):
            hint = (
                "leave port_mapping out: a process there is reached at all its ports, by its own address or the host's"
            )
            raise invalid(f"network {network.name} ({driver.name}) cannot publish ports", hint, "ports_not_supported")
        driver.check_publishable(network)
        return await self._context.workers.run(self._context.port_allocator.bind, network, mappings)

    async def _make(self, network: Network, endpoint: Endpoint) -> Endpoint:
        try:
            driver = self._context.drivers.working(network.driver)
            if endpoint.is_published and isinstance(driver, PortPublisher):
                await driver.publish(network, endpoint)
            if isinstance(driver, ExternalDriver):
                endpoint = await driver.create_endpoint(network, endpoint)
            endpoint = replace(endpoint, phase=Phase.READY)
            await self._records.commit(put=[endpoint])
        except BaseException as failure:
            refused = isinstance(failure, Error) and failure.code == PLUGIN_REFUSED
            await roll_back(f"endpoint {endpoint.name}", self._roll_back(network, endpoint, force=refused))
            raise
        await self._context.resolver_sync.endpoint_added(network, endpoint)
        return endpoint

    async def _reserved(
        self,
        network: Network,
        endpoint_id: str,
        spec: EndpointSpec,
        ports: Sequence[BoundPort],
        process: Process | None,
    ) -> Endpoint:
        try:
            for attempt in range(REQUESTED if _is_fixed(spec) else CHOICES):
                try:
                    return await self._reserve(network.id, endpoint_id, spec, ports, process)
                except Error as failure:
                    if failure.code != CLAIMED_ELSEWHERE:
                        raise
                    refusal = failure
                    await self._records.catch_up()
                    if not _is_fixed(spec):
                        self._context.leases.skip(network, attempt)
            raise refusal
        except BaseException:
            self._context.port_allocator.unbind(ports)
            raise

    async def _reserve(
        self,
        network_id: str,
        endpoint_id: str,
        spec: EndpointSpec,
        ports: Sequence[BoundPort],
        process: Process | None,
    ) -> Endpoint:
        """Decide on an endpoint and record it; nothing may wait between the checks and the commit.

        Without ports there is nothing to create in the kernel. Such an endpoint is ready at once, and its names are
        sent while the record is written. One that another program makes is recorded before it is asked for.
        """
        network = self._networks.open(network_id)
        direct = direct_ports(network, spec.port_mapping)
        unfinished = bool(ports or direct) or self._is_external(network)
        self._refuse_taken(network, spec.name)
        lease = self._context.leases.take(network, spec)
        endpoint = Endpoint(
            id=endpoint_id,
            name=spec.name,
            network_id=network.id,
            phase=Phase.CREATING if unfinished else Phase.READY,
            sequence=self._records.next_sequence(),
            created=time.time(),
            address=lease.address,
            address_ipv6=lease.address_ipv6,
            additional_addresses=lease.additional,
            mac=lease.mac,
            exposed_ports=spec.exposed_ports,
            ports=tuple(ports),
            direct_ports=direct,
            labels=spec.labels,
            aliases=spec.aliases,
            affinity=spec.affinity,
            probe=spec.probe,
            process=process,
            owner=spec.owner,
            bandwidth=spec.bandwidth,
        )
        try:
            written = self._records.commit(put=[endpoint], cursor=lease.cursor)
            named = await (written if unfinished else self._named_while(written, network, endpoint))
        except BaseException:
            self._context.leases.cancel(network, *endpoint.addresses)
            raise
        if named:
            await named
        return endpoint

    async def _named_while(self, written: Awaitable[None], network: Network, endpoint: Endpoint) -> Awaitable[None]:
        """Wait for the commit of an endpoint, and send its names before; they are in force when the result is done."""
        resolver = self._context.resolver_sync
        named = resolver.endpoint_added(network, endpoint)
        try:
            await written
        except BaseException:
            await resolver.endpoint_removed(endpoint)
            raise
        return named

    def _is_external(self, network: Network) -> bool:
        return isinstance(self._context.drivers[network.driver], ExternalDriver)

    async def delete_unattached(self, endpoint: Endpoint, *, force: bool = False) -> None:
        """Delete an endpoint without attachments, and its name; its lock is held.

        Without ports there is nothing in the kernel, so one commit is the whole deletion.

        Args:
            endpoint: the endpoint.
            force: delete it although its network's plugin is away, or refuses.
        """
        network = self._networks.get(endpoint.network_id)
        if endpoint.is_published or self._is_external(network):
            endpoint = replace(endpoint, phase=Phase.REMOVING)
            await self._records.commit(put=[endpoint])
        unnamed = self._context.resolver_sync.endpoint_removed(endpoint)
        try:
            await self.remove(network, endpoint, unnamed, force=force)
        except BaseException:
            kept = self._records.endpoint(endpoint.id)
            if kept and kept.phase is Phase.READY:
                await self._context.resolver_sync.endpoint_added(network, kept)
            raise
        self._context.host_files.changed(endpoint, network, deleted=True)

    async def publish(self, network: Network, endpoint: Endpoint, mappings: Sequence[PortMapping]) -> None:
        """Publish ports of an endpoint that exists and has none; its lock is held.

        The record comes first: a restart publishes what it names.

        Raises:
            Error: as :meth:`create`; nothing is left behind.
        """
        driver = self._context.drivers.working(network.driver)
        try:
            ports = await self._bind(driver, network, mappings)
        except Error as failure:
            raise self._with_holder(
                failure, EndpointSpec(name=endpoint.name, port_mapping=tuple(mappings))
            ) from failure
        direct = direct_ports(network, mappings)
        published = replace(endpoint, ports=ports, direct_ports=direct, ports_withdrawn=False)
        try:
            await self._records.commit(put=[published])
            if isinstance(driver, PortPublisher):
                await driver.publish(network, published)
        except BaseException:
            before = replace(published, ports_withdrawn=endpoint.ports_withdrawn)
            await roll_back(f"publication of {endpoint.name}", self._withdraw(network, before))
            self._unbind_unrecorded(published)
            raise

    async def unpublish(self, network: Network, endpoint: Endpoint) -> None:
        """Withdraw the published ports of an endpoint; its lock is held.

        Raises:
            Error: the store or the kernel refuses; then they stay published.
        """
        before = self.get(endpoint.id)
        try:
            await self._withdraw(network, endpoint)
        except BaseException:
            if not self.get(endpoint.id).is_published:  # else the store refused, and the kernel was not asked
                await roll_back(f"withdrawal of ports of {endpoint.name}", self._publish_again(network, before))
                self._unbind_unrecorded(endpoint)
            raise

    async def _withdraw(self, network: Network, endpoint: Endpoint) -> None:
        """Withdraw ports. The record comes first: a restart, and each comparison, closes what it does not name."""
        await self._records.commit(put=[replace(endpoint, ports=(), direct_ports=())])
        await self.close_ports(network, endpoint)

    async def _publish_again(self, network: Network, endpoint: Endpoint) -> None:
        """Publish ports that are held."""
        await self._records.commit(put=[endpoint])
        driver = self._context.drivers.working(network.driver)
        if isinstance(driver, PortPublisher):
            await driver.publish(network, endpoint)

    def _unbind_unrecorded(self, endpoint: Endpoint) -> None:
        """Let go of the ports of a failed change, unless they are still recorded: its rollback may have failed, too."""
        known = self._records.endpoint(endpoint.id)
        if known is None or not known.ports:
            self._context.port_allocator.unbind(endpoint.ports)

    async def close_ports(self, network: Network, endpoint: Endpoint) -> None:
        """Close published ports in the kernel, and let go of them; ports that are closed are no error."""
        driver = self._context.drivers.working(network.driver)
        if isinstance(driver, PortPublisher):
            await driver.unpublish(network, endpoint)
        self._context.port_allocator.unbind(endpoint.ports)

    async def finish_interrupted(self, network: Network, name: str) -> None:
        """Finish a removal that failed half-way, so that it does not occupy its name and ports.

        The failed removal may not even be recorded.
        """
        for leftover in self._records.endpoints_named(name, network.id):
            if leftover.phase is not Phase.READY and leftover.id not in self._creating:
                async with self._context.locks.hold(f"endpoint/{leftover.id}"):
                    current = self._records.endpoint(leftover.id)
                    if current and current.phase is not Phase.READY:
                        await self._remove_leftover(network, current)

    async def _remove_leftover(self, network: Network, endpoint: Endpoint) -> None:
        """Remove what is half-way; its lock is held.

        Raises:
            Error: among others ``IN_USE``: containers of other hosts have joined it; the follower makes it ready again.
        """
        try:
            await self.remove(network, endpoint)
        except Error as failure:
            if failure.kind is Kind.IN_USE:  # the follower leaves alone what is still being created
                await self._records.commit(put=[replace(endpoint, phase=Phase.REMOVING)])
            raise

    async def _roll_back(self, network: Network, endpoint: Endpoint, *, force: bool) -> None:
        """Remove what a failed create has made.

        The record is set to removing first, so that a later request can finish it. Its lock is held: two removals at
        once would release an address that a third endpoint has by then.
        """
        await self._records.commit(put=[replace(endpoint, phase=Phase.REMOVING)])
        await self.remove(network, endpoint, force=force)

    async def remove(
        self, network: Network, endpoint: Endpoint, unnamed: Awaitable[None] | None = None, *, force: bool = False
    ) -> None:
        """Remove an endpoint without attachments, in any phase.

        Args:
            network: its network.
            endpoint: the endpoint.
            unnamed: ends when the resolver has no name of the endpoint any more; its addresses are released after that.
            force: as for :meth:`delete_unattached`.
        """
        driver = self._context.drivers[network.driver]
        await asked(driver.delete_endpoint(network, endpoint), force=force)
        if isinstance(driver, PortPublisher):
            await driver.unpublish(network, endpoint)
        self._context.port_allocator.unbind(endpoint.ports)
        await self._records.commit(delete=[endpoint])
        if unnamed:
            await unnamed
        self._context.leases.release(network, *endpoint.addresses)

    def _refuse_taken(self, network: Network, name: str) -> None:
        for holder in self._records.endpoints_named(name, network.id):
            message = f"endpoint with name {name} already exists on network {network.name} (id {holder.id[:12]})"
            raise Error(Kind.NAME_TAKEN, message, "choose another name, or delete that endpoint first")

    def _with_holder(self, failure: Error, spec: EndpointSpec) -> Error:
        """Return the failure with the name of the endpoint that holds the port, if it is one of the daemon's."""
        if failure.code != "port_taken":
            return failure
        requested = {(mapping.proto, mapping.host_port) for mapping in spec.port_mapping if mapping.host_port}
        for endpoint in self._records.endpoints():
            for port in endpoint.ports:
                if (port.proto, port.host_port) in requested:
                    network = self._networks.get(endpoint.network_id)
                    what = f"{port.host_ip}:{port.host_port}/{PROTOCOL_NAMES[port.proto]}"
                    message = f"host port {what} is held by endpoint {endpoint.name} on network {network.name}"
                    return Error(failure.kind, message, failure.hint, failure.code)
        return failure


def _is_fixed(spec: EndpointSpec) -> bool:
    """Return whether another attempt would request the same address or MAC again."""
    return bool(spec.address or spec.address_ipv6 or spec.additional_addresses or spec.mac)


def ready(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that requests may see."""
    return [ep for ep in endpoints if ep.phase is Phase.READY]
