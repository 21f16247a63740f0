"""Networks: find, list, create, delete."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from sandnet.core.lifecycle.references import resolve
from sandnet.core.runtime.context import Context
from sandnet.core.runtime.operations import roll_back
from sandnet.drivers.base import Driver
from sandnet.errors import Error, Kind, not_found
from sandnet.ipam.usage import some
from sandnet.model import Network, NetworkSpec, Phase
from sandnet.model.ids import new_id


class Networks:
    """The networks of this host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records
        self._closing: set[str] = set()
        """Networks about to be removed: they get no more endpoints, though no record says so yet."""
        self._making: set[str] = set()
        """Networks whose creation is under way; another that is not ready was left half-way."""

    def list(self, name: str | None = None, partial_id: str | None = None) -> list[Network]:
        """Those ready for use, in creation order, with exactly that name or an id that starts so."""
        if name is not None:
            return _ready(self._records.networks_named(name))
        found = _ready(self._records.networks())
        return [net for net in found if partial_id is None or net.id.startswith(partial_id)]

    def default(self) -> Network | None:
        """The network that an empty name stands for, if it exists."""
        return next(iter(self.list(name=self._context.settings.default_network)), None)

    def find(self, ref: str) -> Network:
        """The network with that id, name or unique id prefix.

        Raises:
            Error: ``NOT_FOUND`` or ``INVALID`` (ambiguous).
        """
        exact = self._records.network(ref)
        named = _ready(self._records.networks_named(ref))
        return resolve("network", ref, exact if exact and exact.phase is Phase.READY else None, named, self.list)

    def get(self, network_id: str) -> Network:
        """The network with that full id, whatever its phase.

        Raises:
            Error: ``NOT_FOUND``.
        """
        net = self._records.network(network_id)
        if net is None:
            raise not_found("network", network_id)
        return net

    def open(self, network_id: str) -> Network:
        """The network with that full id, if it may get another endpoint.

        Raises:
            Error: ``NOT_FOUND``: also while it is being deleted.
        """
        net = self.get(network_id)
        if net.phase is not Phase.READY or network_id in self._closing:
            raise not_found("network", net.name)
        return net

    @contextmanager
    def closing(self, network_id: str) -> Iterator[None]:
        """Until the end of the block :meth:`open` refuses the network: its deletion is decided."""
        self._closing.add(network_id)
        try:
            yield
        finally:
            self._closing.discard(network_id)

    def scope(self, net: Network) -> str:
        """``local`` or ``global``, as its driver says."""
        return self._context.drivers[net.driver].scope

    async def create(self, spec: NetworkSpec, *, predefined: bool = False) -> Network:
        """Make a network.

        Raises:
            Error: ``NAME_TAKEN``, ``NOT_FOUND`` (driver), or what the driver refuses; nothing is left behind.
        """
        return await self._context.operations.run(self._create(spec, predefined))

    def deletable(self, ref: str) -> Network:
        """As :meth:`find`, or what an earlier delete could not remove."""
        left = [net for net in self._records.networks_named(ref) if net.phase is Phase.REMOVING]
        exact = self._records.network(ref)
        if exact and exact.phase is Phase.REMOVING:
            return exact
        return left[0] if left else self.find(ref)

    async def _create(self, spec: NetworkSpec, predefined: bool) -> Network:
        driver = self._context.driver(spec.driver)
        await self._finish_interrupted(spec.name)
        async with self._context.locks.hold("networks"):  # two plans at once would choose one subnet
            self._refuse_taken(spec.name)
            wish = Network(
                id=new_id(),
                name=spec.name,
                driver=spec.driver,
                phase=Phase.CREATING,
                sequence=self._records.next_sequence(),
                created=time.time(),
                options=spec.options,
                labels=spec.labels,
                predefined=predefined,
            )
            net = await self._planned(driver, wish)
            self._making.add(net.id)
            written = self._records.commit(put=[net])
        try:
            await written
            return await self._make(net)
        finally:
            self._making.discard(net.id)

    async def _make(self, net: Network) -> Network:
        try:
            net = replace(await self._context.driver(net.driver).create_network(net), phase=Phase.READY)
            await self._records.commit(put=[net])
        except BaseException:
            await roll_back(f"network {net.name}", self._roll_back(net))
            raise
        return net

    async def _planned(self, driver: Driver, wish: Network) -> Network:
        try:
            return await driver.plan(wish, self._records.networks())
        except Error as failure:
            if failure.code == "pools_exhausted" and (unused := self._unused()):
                failure.hint += f"; without endpoints: {some(unused)}"
            raise

    def _unused(self) -> Sequence[str]:
        """Names of networks that took their subnet out of the pools, and that no endpoint is on."""
        chosen = (net for net in self._records.networks() if net.ipv4 and not net.predefined)
        nets = (net for net in chosen if not net.options.subnet and not net.options.bridge_address)
        return [net.name for net in nets if not self._records.endpoints_of(net.id)]

    async def _finish_interrupted(self, name: str) -> None:
        """Finish a removal that failed half-way, or could not even be recorded: it must not keep its name for ever."""
        for left in self._records.networks_named(name):
            if left.phase is not Phase.READY and left.id not in self._making:
                async with self._context.locks.hold(f"network/{left.id}"):
                    current = self._records.network(left.id)
                    if current and not self._records.endpoints_of(left.id):  # else only its own delete can
                        await self.remove(current)

    async def _roll_back(self, net: Network) -> None:
        """Remove what a failed create has made; marked first, so that a later request can finish it."""
        async with self._context.locks.hold(f"network/{net.id}"):
            await self._records.commit(put=[replace(net, phase=Phase.REMOVING)])
            await self.remove(net)

    async def remove(self, net: Network) -> None:
        """Unmake a network without endpoints, whatever its phase: the end of a delete, a failed create or a crash."""
        await self._context.drivers[net.driver].delete_network(net)
        await self._records.commit(delete=[net])
        self._context.leases.forget(net.id)
        self._context.host_files.forget(net)

    def _refuse_taken(self, name: str) -> None:
        for holder in self._records.networks_named(name):
            message = f"network with name {name} already exists (id {holder.id[:12]}, driver {holder.driver})"
            raise Error(Kind.NAME_TAKEN, message, "choose another name, or delete that network first")


def _ready(networks: list[Network]) -> list[Network]:
    return [net for net in networks if net.phase is Phase.READY]
