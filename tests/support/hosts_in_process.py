"""Several hosts in one process: a controller each, over in-memory kernels, and one shared store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Final, ParamSpec, TypeVar

from msgspec.structs import replace

from sandnet.composition import assemble
from sandnet.config import Config
from sandnet.core.cluster.shared_values import ALIVE, FORMATS, Alive, decode
from sandnet.core.controller import Controller
from sandnet.drivers.overlay.driver import OverlayDriver
from sandnet.kernel.fake.kernel import FakeKernel
from sandnet.kernel.vxlan.base import Underlay
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, EndpointSpec, JoinSpec, NetworkOptions, NetworkSpec, Phase
from sandnet.stores.base import Change, Changed, Snapshot
from sandnet.stores.memory import MemoryStore
from sandnet.stores.memory_shared import MemoryCluster, MemorySharedStore, WriteFault

P = ParamSpec("P")
T = TypeVar("T")
DRIVER: Final = "overlay"
IN_LINE: Final = 10.0
"""Seconds that a host has until it is in line with the shared store."""


async def at_once() -> None:
    """Wait for nothing."""


class KilledError(BaseException):
    """The daemon is dead: whatever it does outside of its memory raises this. No handler of errors takes it for one."""


@dataclass
class Life:
    """Whether a daemon lives, and when it dies."""

    steps_left: int | None = None
    """How many more commits, requests to the shared store and jobs in the kernel it does; ``None``: any number."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether the daemon is dead."""
        return self.over.is_set()

    def step(self) -> None:
        """Take a step, if the daemon lives.

        Raises:
            KilledError: it does not.
        """
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.over.set()
        if self.is_over:
            raise KilledError

    async def outlives(self, work: Coroutine[Any, Any, object]) -> None:
        """Do some work of the daemon's, until it ends or the daemon dies.

        Raises:
            KilledError: it has died.
        """
        task, death = asyncio.create_task(work), asyncio.create_task(self.over.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if self.is_over:
            task.cancel()
            await asyncio.wait([task], timeout=1)
            raise KilledError
        await task


class MortalWorkers(Workers):
    """Threads of a daemon that may be killed between two jobs."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See :meth:`Workers.run`."""
        self._life.step()
        return await super().run(job, *args, **kwargs)


class MortalStore:
    """The store of a host, as a daemon that may be killed between two commits uses it."""

    def __init__(self, store: MemoryStore, life: Life) -> None:
        self._store, self._life = store, life

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``."""
        self._life.step()
        return await self._store.commit(*changes, durable=durable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class PacedStore(MemorySharedStore):
    """A client whose requests take a while on their way, and so do their answers."""

    pace: Callable[[], Awaitable[None]] = staticmethod(at_once)

    def __init__(self, cluster: MemoryCluster, life: Life | None = None) -> None:
        super().__init__(cluster)
        self._life = life or Life()
        self.delivers = asyncio.Event()
        """While it is clear, the watch yields nothing."""
        self.delivers.set()

    async def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``SharedStore.watch``."""
        async for event in super().watch(prefix):
            await self.delivers.wait()
            yield event

    async def transact(self, *args: Any, **options: Any) -> int:
        """See ``SharedStore.transact``."""
        await self.pace()
        self._life.step()
        try:
            return await super().transact(*args, **options)
        finally:
            await self.pace()

    async def read(self, keys: Sequence[str], *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.read``."""
        await self.pace()
        self._life.step()
        return await super().read(keys, deadline=deadline)


@dataclass
class HostInProcess:
    """One of several hosts; its daemon can be killed and started again."""

    name: str
    config: Config
    cluster: MemoryCluster
    store: MemoryStore = field(default_factory=MemoryStore)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    life: Life = field(default_factory=Life)
    workers: Workers = field(init=False)
    pace: Callable[[], Awaitable[None]] = at_once
    formats: tuple[int, ...] = FORMATS
    """Formats of records that its release reads."""
    first_faults: Sequence[WriteFault] = ()
    """Faults of the first writing requests of each daemon that starts."""
    shared: PacedStore = field(init=False)
    controller: Controller = field(init=False)

    async def start(self, *, connected: bool = True) -> Controller:
        """Start a daemon over what the stores and the kernel hold."""
        self.life = Life()
        self.workers = MortalWorkers(self.life)
        self.shared = PacedStore(self.cluster, self.life)
        self.shared.pace = lambda: self.pace()
        self.shared.faults.extend(self.first_faults)
        if not connected:
            self.shared.cut_off()
        store = MortalStore(self.store, self.life)
        self.controller = assemble(self.config, store, self.kernel, self.workers, shared_store=self.shared)
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

    def counts(self, endpoint_id: str) -> bool:
        """Return whether an endpoint counts, as far as this host knows."""
        cluster = self.controller._context.cluster
        shared = cluster.view.endpoint(endpoint_id) if cluster else None
        return cluster is not None and shared is not None and cluster.view.counts_endpoint(shared)

    async def audit(self) -> None:
        """Compare what the host has with the store, as it does now and then."""
        follower = self.controller._follower
        assert follower
        await follower.audit()

    def peers(self) -> dict[str, set[str]]:
        """Return the MACs of the peers that the driver has, by network."""
        driver = self.controller._context.drivers[DRIVER]
        assert isinstance(driver, OverlayDriver)
        return {net: {peer.mac for peer in table._peers.values()} for net, table in driver._tables.items()}

    async def give_peers(self, attachment: Attachment | None, endpoint_id: str) -> None:
        """Give the driver what an attachment on another host has as the peers of an endpoint; ``None``: it has none."""
        follower, records = self.controller._follower, self.controller._context.records
        assert follower
        (network,) = (each for each in records.networks() if each.driver == DRIVER)
        endpoint = records.endpoint(attachment.endpoint_id) if attachment else None
        attached = records.remote.of_endpoint(attachment.endpoint_id) if attachment else []
        await follower._peers.sync(network, endpoint_id, endpoint, attached)

    async def lose_peer(self, attachment: Attachment) -> None:
        """Let the driver lose a peer, as by a fault of its own."""
        (network,) = (each for each in self.controller._context.records.networks() if each.driver == DRIVER)
        driver = self.controller._context.drivers[DRIVER]
        assert isinstance(driver, OverlayDriver)
        await driver.change_peers(network, (), [attachment.mac])

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
        if self.life.is_over:
            await self.kill()
            return
        await self.controller.stop()
        await self.shared.close()
        self.workers.close()

    async def kill(self) -> None:
        """End the daemon in the middle of whatever it does; its lease lasts on."""
        self.life.over.set()
        for each in (*self.controller._watchers, self.controller._engine_containers, self.controller._lease_watcher):
            each.close()
        if reachability := self.controller._context.reachability:
            await reachability.close()
        tasks = [*self.controller._context.operations._running]
        if follower := self.controller._follower:
            tasks += [task for task in (follower._membership._loop, *follower._tasks) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.shared.close()
        self.workers.close()

    async def take_down(self) -> list[str]:
        """Remove all that the host has, while no daemon runs; return what could not be removed."""
        self.shared, self.workers = PacedStore(self.cluster), Workers()
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

    async def repair(self, attachment: Attachment) -> None:
        """Set up what a container of this host has, as where another program has changed it; its lock is held."""
        records = self.controller._context.records
        network, endpoint = records.network(attachment.network_id), records.endpoint(attachment.endpoint_id)
        sandbox = records.sandbox(attachment.container_id)
        assert network
        assert endpoint
        assert sandbox
        await self.controller.sandboxes._joins.ensure(network, endpoint, sandbox, attachment)

    async def in_line(self) -> None:
        """Wait until the host is in line with the shared store, however long a request of its own would wait for it."""
        follower, revision = self.controller._follower, self.cluster.contents.revision
        assert follower
        end = asyncio.get_running_loop().time() + IN_LINE
        is_there = False
        while not is_there and asyncio.get_running_loop().time() < end:
            await follower._reached(revision)
            is_there = follower._view.revision >= revision and follower._queue.is_idle

    def names(self, network: str = "net") -> list[str]:
        """Return the names of the endpoints of a network, as this host sees them."""
        return sorted(each.name for each in self.controller.endpoints.list(self.controller.networks.find(network)))

    def leftovers(self) -> list[str]:
        """Return the names of networks whose creation or removal is not finished."""
        return [net.name for net in self.controller._context.records.networks() if net.phase is not Phase.READY]

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

    def locks(self, lock: str) -> bool:
        """Return whether an operation holds a lock."""
        return lock in self.controller._context.locks._locks

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
