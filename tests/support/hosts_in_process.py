"""Several hosts in one process: a controller each, over in-memory kernels, and one shared store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Final

from msgspec.structs import replace

from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.cluster.shared_values import ALIVE, FORMATS, Alive, decode
from sandnet.core.controller import Controller
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.vxlan.base import Underlay
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, EndpointSpec, JoinSpec, NetworkOptions, NetworkSpec
from sandnet.stores.base import Snapshot
from sandnet.stores.memory import MemoryStore
from sandnet.stores.memory_shared import MemoryCluster, MemorySharedStore

DRIVER: Final = "overlay"


async def at_once() -> None:
    """Wait for nothing."""


class PacedStore(MemorySharedStore):
    """A client whose requests take a while on their way, and so do their answers."""

    pace: Callable[[], Awaitable[None]] = staticmethod(at_once)

    async def transact(self, *args: Any, **options: Any) -> int:
        """See ``SharedStore.transact``."""
        await self.pace()
        try:
            return await super().transact(*args, **options)
        finally:
            await self.pace()

    async def read(self, keys: Sequence[str], *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.read``."""
        await self.pace()
        return await super().read(keys, deadline=deadline)


@dataclass
class HostInProcess:
    """One of several hosts; its daemon can be killed and started again."""

    name: str
    config: Config
    cluster: MemoryCluster
    store: MemoryStore = field(default_factory=MemoryStore)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    workers: Workers = field(default_factory=Workers)
    pace: Callable[[], Awaitable[None]] = at_once
    formats: tuple[int, ...] = FORMATS
    """Formats of records that its release reads."""
    shared: PacedStore = field(init=False)
    controller: Controller = field(init=False)

    async def start(self, *, connected: bool = True) -> Controller:
        """Start a daemon over what the stores and the kernel hold."""
        self.shared = PacedStore(self.cluster)
        self.shared.pace = lambda: self.pace()
        if not connected:
            self.shared.cut_off()
        self.controller = assemble(self.config, self.store, self.kernel, self.workers, shared_store=self.shared)
        cluster = self.controller._context.cluster
        assert cluster
        cluster.membership.host = replace(cluster.membership.host, formats=self.formats)
        self.kernel.vxlan.found = Underlay(IPv4Address(f"10.99.0.{self.name[1:]}"), "uplink", 1500)
        await self.controller.start()
        return self.controller

    @property
    def has_lease(self) -> bool:
        """Whether the store has a lease of this host."""
        return self.cluster.contents.get(f"{ALIVE}{self.name}") is not None

    @property
    def joined(self) -> bool:
        """Whether the host is a member, with the lease that the store has."""
        cluster = self.controller._context.cluster
        entry = self.cluster.contents.get(f"{ALIVE}{self.name}")
        assert cluster
        return entry is not None and decode(entry.value, Alive).number == cluster.membership.number

    async def audit(self) -> None:
        """Compare the host's own attachments with the store, as it does now and then."""
        follower = self.controller._follower
        assert follower
        await follower._claim_again()

    def peers(self) -> dict[str, set[str]]:
        """Return the MACs of the peers that the driver has, by network."""
        driver = self.controller._context.drivers[DRIVER]
        assert isinstance(driver, OverlayDriver)
        return {net: {peer.mac for peer in table._peers.values()} for net, table in driver._tables.items()}

    def end_lease(self) -> None:
        """Let the host's lease end."""
        entry = self.cluster.contents.get(f"{ALIVE}{self.name}")
        assert entry
        self.cluster.expire(decode(entry.value, Alive).lease)

    def lose_state(self) -> None:
        """Lose all that the host keeps, as with a new disk after a power cut."""
        self.store, self.kernel = MemoryStore(), FakeKernel()

    async def stop(self) -> None:
        """Stop the daemon; its lease lasts on."""
        await self.controller.stop()
        await self.shared.close()

    async def take_down(self) -> list[str]:
        """Remove all that the host has, while no daemon runs; return what could not be removed."""
        self.shared = PacedStore(self.cluster)
        self.controller = assemble(self.config, self.store, self.kernel, self.workers, shared_store=self.shared)
        return await self.controller.remove_everything()

    def wake(self) -> None:
        """Let the host look at its lease now."""
        cluster = self.controller._context.cluster
        assert cluster
        cluster.membership.check()

    def problem(self) -> str:
        """Return the problems of the host's membership, a line each."""
        cluster = self.controller._context.cluster
        assert cluster
        return "\n".join(cluster.membership.problems())

    async def network(self, name: str = "net", **options: object) -> str:
        """Create a network of all hosts; return its id."""
        spec = NetworkSpec(name=name, driver=DRIVER, options=NetworkOptions(**options))  # type: ignore[arg-type]
        return (await self.controller.networks.create(spec)).id

    async def endpoint(self, name: str, network: str = "net", **requests: object) -> str:
        """Create an endpoint; return its id."""
        spec = EndpointSpec(name=name, **requests)  # type: ignore[arg-type]
        return (await self.controller.endpoints.create(network, spec)).id

    async def join(self, container: str, endpoint: str, network: str = "net", *, many: bool = False) -> None:
        """Join a container to an endpoint."""
        await self.controller.sandboxes.join(network, endpoint, JoinSpec(container_id=container), many=many)

    async def leave(self, container: str, endpoint: str, network: str = "net") -> None:
        """Remove a container from an endpoint."""
        await self.controller.sandboxes.leave(network, endpoint, container)

    async def in_line(self) -> None:
        """Wait until the host is in line with the shared store."""
        follower = self.controller._follower
        assert follower
        await follower._reached(self.cluster.contents.revision)

    def names(self, network: str = "net") -> list[str]:
        """Return the names of the endpoints of a network, as this host sees them."""
        return sorted(each.name for each in self.controller.endpoints.list(self.controller.networks.find(network)))

    def holds(self, container: str, endpoint_id: str) -> bool:
        """Return whether a container of this host answers for an endpoint's address."""
        attachment = self.controller._context.records.attachment(container, endpoint_id)
        return attachment is not None and attachment.holder

    def balanced_macs(self) -> set[str]:
        """Return the MACs to which the host's kernel sends flows of services."""
        takers = self.kernel.firewall.members("bridge sandnet", "takers4")
        return {":".join(f"{byte:02x}" for byte in key[8:14]) for key in takers}  # after network and address

    def attachments(self) -> list[Attachment]:
        """Return the attachments on this host."""
        return self.controller._context.records.attachments()

    def waits_for(self, lock: str) -> bool:
        """Return whether an operation waits for a lock that another one holds."""
        found = self.controller._context.locks._locks.get(lock)
        return found is not None and found.users > 1

    def elsewhere(self, endpoint_id: str) -> list[tuple[str, str]]:
        """Return host and container of the attachments on other hosts."""
        found = self.controller._context.records.remote.of_endpoint(endpoint_id)
        return sorted((each.host, each.container_id) for each in found)


@asynccontextmanager
async def several_hosts(
    tmp_path: object, number: int = 2, formats: tuple[int, ...] = FORMATS
) -> AsyncIterator[list[HostInProcess]]:
    """Yield started hosts with the names ``h1``, ``h2`` and so on."""
    cluster, hosts = MemoryCluster(), []
    for index in range(1, number + 1):
        directory = f"{tmp_path}/h{index}"
        config = Config(
            host_name=f"h{index}",
            store="etcd://127.0.0.1/unused",
            state_dir=f"{directory}/state",
            run_dir=f"{directory}/run",
            dns=False,
        )
        hosts.append(HostInProcess(f"h{index}", config, cluster, formats=formats))
    try:
        for host in hosts:
            await host.start()
        yield hosts
    finally:
        for host in hosts:
            await host.stop()
            host.workers.close()
