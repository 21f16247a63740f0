"""A controller over the in-memory store and kernel: everything but Linux."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.errors import Error, Kind
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.workers import Workers
from sandnet.model import Endpoint, EndpointSpec, JoinSpec, Network, NetworkOptions, NetworkSpec, PortMapping, Sandbox
from sandnet.stores.base import Change
from sandnet.stores.memory import MemoryStore


class MoodyStore(MemoryStore):
    """A store that refuses one commit when reported to, or all after some, or takes one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = 0.0
        """Seconds that each commit takes."""
        self._turn = asyncio.Lock()

    refusal: Error | None = None
    room: int | None = None
    """How many commits it takes; ``None``: any number."""

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """Refuse, if reported to; else as the memory store."""
        if self.room is not None:
            if self.room <= 0:
                raise Error(Kind.UNAVAILABLE, "the disk is full")
            self.room -= 1
        if self.pace:
            async with self._turn:
                await asyncio.sleep(self.pace)
                return await super().commit(*changes, durable=durable)
        refusal, self.refusal = self.refusal, None
        if refusal:
            raise refusal
        return await super().commit(*changes, durable=durable)


@dataclass
class CoreInProcess:
    """A host with a daemon that can be restarted."""

    config: Config
    store: MoodyStore = field(default_factory=MoodyStore)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    workers: Workers = field(default_factory=Workers)
    controller: Controller = field(init=False)
    _daemons: int = 0

    async def start(self) -> Controller:
        """A daemon that has just started over what the store and the kernel hold."""
        controller = await self._another()
        await controller.start()
        return controller

    async def take_down(self) -> list[str]:
        """All that the store names, as ``sandnet down`` does it: while no daemon runs."""
        return await (await self._another()).remove_everything()

    async def _another(self) -> Controller:
        """The one before has ended: it would repair what this one changes."""
        if self._daemons:
            await self.controller.stop()
        self._daemons += 1
        self.controller = assemble(self.config, self.store, self.kernel, self.workers)
        return self.controller

    def unattended(self) -> None:
        """From now on no one looks for what others change: the kernel is asked by the test's own requests only."""
        self.controller._drift_watcher.close()

    def users(self, lock: str) -> int:
        """Return how many operations hold a lock or wait for it."""
        found = self.controller._context.locks._locks.get(lock)
        return found.users if found else 0

    async def network(self, name: str = "foo", **options: object) -> Network:
        """A bridge network."""
        asked = NetworkOptions(**options)  # type: ignore[arg-type]
        return await self.controller.networks.create(NetworkSpec(name=name, driver="bridge", options=asked))

    async def endpoint(self, name: str, network: str = "foo", **requests: object) -> Endpoint:
        """An endpoint."""
        return await self.controller.endpoints.create(network, EndpointSpec(name=name, **requests))  # type: ignore[arg-type]

    async def join(self, container: str, endpoint: str, network: str = "foo", **requests: object) -> Sandbox:
        """A container joined to an endpoint."""
        spec = JoinSpec(container_id=container, **requests)  # type: ignore[arg-type]
        return await self.controller.sandboxes.join(network, endpoint, spec)

    def default_route(self, sandbox: Sandbox) -> tuple[str, str]:
        """Interface and gateway of a sandbox's IPv4 default route."""
        route = self.kernel.namespaces.inside(sandbox.key).default_routes[4]
        return route.interface, str(route.gateway)

    def veths(self) -> list[str]:
        """Our veth ends that are up on the host."""
        return [link.name for link in self.kernel.links.list() if link.name.startswith("snv") and link.up]


def mapping(host_port: int = 0, port: int = 80, proto: int = 6, **more: object) -> PortMapping:
    """A wish to publish a port."""
    return PortMapping(proto=proto, port=port, host_port=host_port, **more)  # type: ignore[arg-type]
