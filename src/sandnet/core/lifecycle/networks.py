"""Networks: find, list, create, delete."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from sandnet.core.cluster.network_clashes import clash, refuse_clash
from sandnet.core.cluster.view import ClusterView
from sandnet.core.lifecycle.references import resolve
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import roll_back
from sandnet.core.runtime.plugin_requests import asked
from sandnet.core.state.shared_writer import CHOICES, CLAIMED_ELSEWHERE, REQUESTED
from sandnet.drivers.base import PLUGIN_REFUSED, Driver, HostAware
from sandnet.errors import VNI_TAKEN, Error, Kind, not_found
from sandnet.ipam.addresses import AddressUse
from sandnet.ipam.usage import some
from sandnet.model import Network, NetworkSpec, Phase, Prefix
from sandnet.model.ids import new_id

_CHOSEN_TWICE: Final = {CLAIMED_ELSEWHERE, VNI_TAKEN}
"""Error codes of a choice that another host has made, too: it has claimed it, or its network was made here first."""
PLANS: Final = 3
"""Plans of one attempt, each beside the networks that were made during the one before."""
_SHORTEST_RANGE: Final = 0.01
_LONGEST_RANGE: Final = 1.0
"""Seconds within which another choice waits at random; they double from the first to the longest. Each host chooses the
same free subnet and VNI, so of those that choose at one instant a single one gets it."""


class Networks:
    """The networks of this host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._closing: set[str] = set()
        """Networks about to be removed: they get no more endpoints, though their records do not show it yet."""
        self._creating: dict[str, asyncio.Event] = {}
        """Networks whose creation is in progress, with its end; any other that is not ready was left half-way."""

    def list(self, name: str | None = None, partial_id: str | None = None) -> list[Network]:
        """Return the networks that are ready, in creation order, with exactly that name or an id with that prefix."""
        if name is not None:
            return _ready(self._records.networks_named(name))
        found = _ready(self._records.networks())
        return [net for net in found if partial_id is None or net.id.startswith(partial_id)]

    def default(self) -> Network | None:
        """Return the network for an empty name, if it exists."""
        return next(iter(self.list(name=self._context.settings.default_network)), None)

    def find(self, ref: str) -> Network:
        """Return the network with that id, name or unique id prefix.

        Raises:
            Error: ``NOT_FOUND``, ``INVALID`` (ambiguous); ``UNAVAILABLE`` or ``CONFLICT``: it cannot be on this host.
        """
        exact = self._records.network(ref)
        named = _ready(self._records.networks_named(ref))
        try:
            return resolve("network", ref, exact if exact and exact.phase is Phase.READY else None, named, self.list)
        except Error as failure:
            if failure.kind is Kind.NOT_FOUND and self._context.cluster:
                self._explain_absence(ref, self._context.cluster.view)
            raise

    def _explain_absence(self, ref: str, view: ClusterView) -> None:
        """Refuse a network of other hosts that this host cannot have.

        Raises:
            Error: ``UNAVAILABLE`` or ``CONFLICT``, with the reason.
        """
        for shared in filter(None, map(view.network, view.network_ids())):
            driver = self._context.drivers.get(shared.network.driver)
            if ref in (shared.network.name, shared.network.id) and isinstance(driver, HostAware):
                driver.refuse_impossible(shared.network)
                refuse_clash(shared.network, self._records.networks())

    def get(self, network_id: str) -> Network:
        """Return the network with that full id, in any phase.

        Raises:
            Error: ``NOT_FOUND``.
        """
        net = self._records.network(network_id)
        if net is None:
            raise not_found("network", network_id)
        return net

    def open(self, network_id: str) -> Network:
        """Return the network with that full id, if it may get another endpoint.

        Raises:
            Error: ``NOT_FOUND``: also while it is being deleted.
        """
        net = self.get(network_id)
        if net.phase is not Phase.READY or network_id in self._closing:
            raise not_found("network", net.name)
        return net

    @contextmanager
    def closing(self, network_id: str) -> Iterator[None]:
        """Make :meth:`open` refuse the network until the end of the block: its deletion is decided."""
        self._closing.add(network_id)
        try:
            yield
        finally:
            self._closing.discard(network_id)

    def scope(self, net: Network) -> str:
        """Return the scope of the network's driver: ``local`` or ``global``."""
        return self._context.drivers[net.driver].scope

    def address_use(self, net: Network) -> dict[Prefix, AddressUse]:
        """Return how many addresses of each subnet are in use."""
        return self._context.leases.use(net)

    async def create(self, spec: NetworkSpec, *, predefined: bool = False) -> Network:
        """Create a network.

        Raises:
            Error: ``NAME_TAKEN``, ``NOT_FOUND`` (driver), or an error of the driver; nothing is left behind.
        """
        return await self._context.operations.run(self.create_within(spec, predefined=predefined))

    def deletable(self, ref: str) -> Network:
        """Return the network as :meth:`find` does, or one that an earlier delete could not remove."""
        leftovers = [net for net in self._records.networks_named(ref) if net.phase is Phase.REMOVING]
        exact = self._records.network(ref)
        if exact and exact.phase is Phase.REMOVING:
            return exact
        return leftovers[0] if leftovers else self.find(ref)

    async def create_within(self, spec: NetworkSpec, *, predefined: bool = False) -> Network:
        """Create a network as :meth:`create` does, as part of an operation in progress."""
        for attempt in range(REQUESTED if spec.options.subnet or spec.options.vni else CHOICES):
            try:
                return await self._create(spec, predefined=predefined)
            except Error as failure:
                if failure.code not in _CHOSEN_TWICE:
                    raise
                refusal = failure
                await asyncio.sleep(_wait_at_random(attempt))
                await self._records.catch_up()
        raise refusal

    async def _create(self, spec: NetworkSpec, *, predefined: bool) -> Network:
        driver = self._context.drivers.working(spec.driver)
        await self.finish_interrupted(spec.name)
        network_id = spec.id or new_id()
        async with self._context.locks.hold(f"network/{network_id}"):  # what is creating without it was left half-way
            async with self._context.locks.hold("networks"):  # two plans at once would choose one subnet
                self._refuse_taken(spec.name)
                requested = Network(
                    id=network_id,
                    name=spec.name,
                    driver=spec.driver,
                    phase=Phase.CREATING,
                    sequence=self._records.next_sequence(),
                    created=time.time(),
                    options=spec.options,
                    labels=spec.labels,
                    predefined=predefined,
                )
                net = await self._planned(driver, requested)
                self._refuse_taken(spec.name)  # another host's network may have come in between
                written = self._records.commit(put=[net])
                self._creating[net.id] = asyncio.Event()
            try:
                await written
                return await self._make(net)
            finally:
                self._creating.pop(net.id).set()

    async def creation_ended(self, name: str) -> None:
        """Wait until no creation of a network of that name is in progress, whether it succeeds or fails."""
        for net in self._records.networks_named(name):
            if ended := self._creating.get(net.id):
                await ended.wait()

    async def _make(self, net: Network) -> Network:
        try:
            net = replace(await self._context.drivers.working(net.driver).create_network(net), phase=Phase.READY)
            await self._records.commit(put=[net])
        except BaseException as failure:
            refused = isinstance(failure, Error) and failure.code == PLUGIN_REFUSED
            await roll_back(f"network {net.name}", self._roll_back(net, force=refused))
            raise
        return net

    async def _planned(self, driver: Driver, requested: Network) -> Network:
        """Plan a network, beside all that are here when this returns.

        The copy of another host's network may be made during the plan. Two networks with one VNI must never be here at
        once: removing one of them takes it from both.
        """
        for _ in range(PLANS):
            others = self._records.networks()
            try:
                beside = *self.elsewhere(requested), *self._pools_beside(requested)
                net = await driver.plan(requested, [*others, *beside])
            except Error as failure:
                if failure.kind is Kind.CONFLICT and self._records.networks() != others:
                    continue
                if failure.code == "pools_exhausted" and (unused := self._unused()):
                    failure.hint += f"; without endpoints: {some(unused)}"
                raise
            if not any(clash(net, each) for each in self._made_since(others)):
                return net
        message = f"other hosts make networks all the time, and network {requested.name} finds no place beside them"
        raise Error(Kind.CONFLICT, message, "repeat the request", CLAIMED_ELSEWHERE)

    def elsewhere(self, net: Network) -> Sequence[Network]:
        """Return the networks of all hosts that are not here, or not yet: a plan of one of all hosts is beside them."""
        if self.scope(net) != "global" or self._context.cluster is None:
            return ()
        view = self._context.cluster.view
        missing = (each for each in view.network_ids() if each != net.id and self._records.network(each) is None)
        return [shared.network for shared in map(view.network, missing) if shared]

    def _pools_beside(self, requested: Network) -> Sequence[Network]:
        """Return the IPv4 pools of engines if a subnet is chosen. A requested one may be that of the engine's network.

        IPv6 subnets are chosen at random (RFC 4193).
        """
        if requested.options.subnet or requested.options.bridge_address:
            return ()
        return [net for net in self._context.engine_records.pool_networks() if net.ipv4]

    def _made_since(self, others: Sequence[Network]) -> Sequence[Network]:
        """Return the networks that are here and not among these."""
        found = self._records.networks()
        if found == others:  # nearly always, and cheap: the records are the same objects
            return ()
        known = {net.id for net in others}
        return [net for net in found if net.id not in known]

    def _unused(self) -> Sequence[str]:
        """Return the names of networks that have a subnet from the pools, and no endpoint."""
        chosen = (net for net in self._records.networks() if net.ipv4 and not net.predefined)
        nets = (net for net in chosen if not net.options.subnet and not net.options.bridge_address)
        return [net.name for net in nets if not self._records.endpoints_of(net.id)]

    async def finish_interrupted(self, name: str) -> None:
        """Finish a removal that failed half-way, so that it does not occupy its name for ever.

        The failed removal may not even be recorded.
        """
        for leftover in self._records.networks_named(name):
            if leftover.phase is not Phase.READY and leftover.id not in self._creating:
                async with self._context.locks.hold(f"network/{leftover.id}"):
                    current = self._records.network(leftover.id)
                    unfinished = current is not None and current.phase is not Phase.READY  # a copy may be by now
                    # with endpoints, only its own delete can
                    if current and unfinished and not self._records.endpoints_of(leftover.id):
                        await self.remove(current)

    async def _roll_back(self, net: Network, *, force: bool) -> None:
        """Remove what a failed create has made; its lock is held.

        The record is set to removing first, so that a later request can finish it.
        """
        removing = replace(net, phase=Phase.REMOVING)
        await self._records.commit(put=[removing])
        await self.remove(removing, force=force)

    async def remove(self, net: Network, *, force: bool = False) -> None:
        """Remove a network without endpoints, in any phase: the last step of a delete, a failed create or a restore.

        One that is being created is removed on this host alone. It may be the copy of another host's network.

        Args:
            net: the network.
            force: remove it although its plugin is away, or refuses.
        """
        await asked(self._context.drivers[net.driver].delete_network(net), force=force)
        await self._records.commit(delete=[net], shared=net.phase is not Phase.CREATING)
        self._context.leases.forget(net.id)
        self._context.host_files.forget(net)

    def _refuse_taken(self, name: str) -> None:
        for holder in self._records.networks_named(name):
            message = f"network with name {name} already exists (id {holder.id[:12]}, driver {holder.driver})"
            raise Error(Kind.NAME_TAKEN, message, "choose another name, or delete that network first")


def _ready(networks: list[Network]) -> list[Network]:
    return [net for net in networks if net.phase is Phase.READY]


def _wait_at_random(attempt: int) -> float:
    """Return how many seconds to wait after an attempt was refused, counted from 0."""
    return random.uniform(0, min(_SHORTEST_RANGE * 2**attempt, _LONGEST_RANGE))  # noqa: S311 - hosts are to differ
