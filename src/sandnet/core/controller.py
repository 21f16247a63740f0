"""The network controller: the entry point to the core for all dialects of the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from sandnet.core.cluster.node_list import Nodes, no_shared_store
from sandnet.core.engine.connections import Connections
from sandnet.core.engine.containers import EngineContainers
from sandnet.core.engine.engine_api import EngineApi
from sandnet.core.engine.ipam import EngineIpam
from sandnet.core.engine.remote_driver import NETWORK_LABEL, EngineNetworks
from sandnet.core.lifecycle.backends import Backends
from sandnet.core.lifecycle.deletion import Deletion
from sandnet.core.lifecycle.endpoints import Endpoints
from sandnet.core.lifecycle.liveness import NamespaceUse
from sandnet.core.lifecycle.networks import Networks
from sandnet.core.lifecycle.process_termination import end_processes
from sandnet.core.lifecycle.runtime_attachments import RuntimeAttachments
from sandnet.core.lifecycle.sandboxes import Sandboxes
from sandnet.core.lifecycle.services import Services
from sandnet.core.lifecycle.updates.endpoint_update import EndpointUpdates
from sandnet.core.lifecycle.updates.network_update import NetworkUpdates
from sandnet.core.monitoring.bulk_removal import BulkRemoval
from sandnet.core.monitoring.health_checks import HealthChecks
from sandnet.core.monitoring.lease_watcher import LeaseWatcher
from sandnet.core.monitoring.process_watcher import ProcessWatcher
from sandnet.core.reachability.reachability import Reachability
from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.core.reconcile.drift_watcher import DriftWatcher
from sandnet.core.reconcile.reconciler import Reconciler
from sandnet.core.reconcile.sandbox_repair import SandboxRepair
from sandnet.core.reconcile.scanner import Candidates, Scanner
from sandnet.core.reconcile.unheld_ports import PortHolding
from sandnet.core.recovery.garbage_collector import GarbageCollector
from sandnet.core.recovery.rebuild import Rebuild
from sandnet.core.recovery.restore import Restore
from sandnet.core.replication.attachment_replicas import AttachmentReplicas
from sandnet.core.replication.endpoint_replicas import EndpointReplicas
from sandnet.core.replication.follower import WatchFollower
from sandnet.core.replication.network_replicas import NetworkReplicas
from sandnet.core.replication.peer_replicas import PeerReplicas
from sandnet.core.replication.pending_rebalances import PendingRebalances
from sandnet.core.replication.port_replicas import PortReplicas
from sandnet.core.runtime.context import Cluster, Context
from sandnet.dns.base import Explanation
from sandnet.errors import Error, Kind
from sandnet.kernel.types import PoolStatus
from sandnet.model import NetworkSpec


class DriverHealth(NamedTuple):
    """The state of a driver on this host."""

    name: str
    available: bool
    reason: str
    """Why it is not available, or what its networks cannot have on this host; empty: no restriction."""


class ObjectCounts(NamedTuple):
    """The number of objects, in any phase."""

    networks: Mapping[str, int]
    """By driver."""
    endpoints: int
    sandboxes: int
    attachments: int


class Health(NamedTuple):
    """The state of the daemon."""

    status: str
    """``ok``, or ``degraded`` when there are problems."""
    problems: tuple[str, ...]
    drivers: tuple[DriverHealth, ...]
    operations: int
    """The number of changes in progress."""
    pool: PoolStatus
    """The pool of prepared sandboxes."""


class Controller:
    """The networks, endpoints, sandboxes and services of one host."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.networks = Networks(context)
        self.endpoints = Endpoints(context, self.networks)
        self.sandboxes = Sandboxes(context, self.networks, self.endpoints)
        self.network_updates = _network_updates(context, self.networks, self.sandboxes)
        self.endpoint_updates = _endpoint_updates(context, self.sandboxes)
        self.backends = Backends(context)
        self.removal = Deletion(context, self.networks, self.endpoints, self.sandboxes)
        lifecycle = (self.networks, self.endpoints, self.sandboxes, self.removal)
        self.services = Services(
            context.records,
            context.settings.default_network,
            self.networks,
            self.endpoints,
            self.sandboxes,
            self.backends,
            self.removal,
        )
        driver = context.drivers[context.settings.engine_driver]
        self.engine_ipam = EngineIpam(context.records, context.engine_records, context.leases, context.locks, driver)
        self._engine_containers = _engine_containers(context)
        self.engine_networks = EngineNetworks(
            context.records, context.engine_records, self.engine_ipam, self._engine_containers, context.locks, lifecycle
        )
        self.connections = Connections(
            context.records, context.operations, context.locks, context.workers, context.kernel.processes, lifecycle
        )
        self.runtime_attachments = RuntimeAttachments(
            context.records,
            context.operations,
            context.locks,
            context.resolver_sync,
            NamespaceUse(context.kernel, context.workers),
            networks=self.networks,
            endpoints=self.endpoints,
            sandboxes=self.sandboxes,
            removal=self.removal,
        )
        self._holding = _port_holding(context)
        scanner = _scanner(context)
        repair = _sandbox_repair(context, self.sandboxes)
        self.reconcile = Reconciler(context, scanner, repair, self.removal, self._holding)
        self._drift_watcher = DriftWatcher(context, scanner, self.reconcile)
        self._restore = Restore(
            context, scanner, self.networks, self.endpoints, self.sandboxes, self.removal, self._holding
        )
        self._rebuild = _rebuild(context)
        self._follower = self._make_follower(context.cluster) if context.cluster else None
        self.events = context.events
        self._probes = _health_checks(context, self.backends)
        runtime = (context.operations, context.locks)
        self._garbage = GarbageCollector(context.records, runtime, lifecycle[:3], self.removal)
        self._lease_watcher = _lease_watcher(context, self.sandboxes)
        self._process_watcher = _process_watcher(context, self.removal)
        self._watchers = (self._probes, self._process_watcher, self._drift_watcher, self._garbage)
        self.ended: list[int] = []
        """The numbers of the processes that :meth:`remove_everything` has ended."""
        self._problems: list[str] = []
        self._health_checks: list[Callable[[], str]] = []

    async def start(self) -> None:
        """Load the records, rebuild lost ones, restore the kernel from them, and create the predefined networks.

        Raises:
            Error: ``UNAVAILABLE`` when the store cannot be read. Any other failure degrades :meth:`health`.
        """
        await self._context.records.load()
        await self._context.engine_records.load()
        await self._rebuild.run()
        if self._follower:
            await self._follower.connect()
        await self._restore.run()
        if self._follower:
            await self._follower.start()
        await self.engine_ipam.start()
        await self._context.resolver_sync.replace()
        for name, driver in self._context.settings.predefined_networks:
            if not self._context.records.networks_named(name):
                await self._predefine(name, driver)
        await self._lease_watcher.start()
        for each in (*self._watchers, self._engine_containers):
            each.start()
        if reachability := self._context.reachability:
            reachability.start()
        self._context.kernel.pool.start(lambda: self._context.operations.count > 0)

    async def stop(self) -> None:
        """Finish the operations in progress; networks and sandboxes keep working."""
        for each in (*self._watchers, self._engine_containers, self._lease_watcher):
            each.close()
        if self._context.reachability:
            await self._context.reachability.close()
        await self._context.operations.close()
        if self._follower:
            await self._follower.close()
        self._context.events.close()
        await self._context.host_files.close()
        await self._context.link_reaper.wait()
        await self._context.kernel.pool.stop()

    async def remove_everything(self) -> list[str]:
        """Remove all objects that the store names, instead of :meth:`start`; return what could not be removed.

        Processes that run for a sandbox alone are ended first; :attr:`ended` has their numbers.
        """
        await self._context.records.load()
        await self._context.engine_records.load()
        await self._context.engine_records.clear()
        self.ended = await end_processes(
            self._context.boot_id, self._context.kernel, self._context.workers, self._context.records.sandboxes()
        )
        self._context.records.shared_writer = None  # what all hosts share stays theirs
        await self._restore.remove_everything()
        await self._lease_watcher.end_orphans()
        return [*self._restore.problems, *await self._leave_cluster()]

    async def _leave_cluster(self) -> list[str]:
        """End this host's lease in the shared store; return why that is not possible, as texts.

        Then it ends by itself. What this host had there does not count any more, and is removed when it is wanted.
        """
        if self._context.cluster is None:
            return []
        try:
            await self._context.cluster.membership.leave()
        except (Error, msgspec.DecodeError) as failure:
            return [f"shared store: {failure}; what this host had there ends with its lease"]
        return []

    @property
    def nodes(self) -> Nodes:
        """The hosts that share networks with this one.

        Raises:
            Error: ``NOT_FOUND``: there is no shared store.
        """
        if self._context.cluster is None:
            raise no_shared_store()
        _, view, membership, shared = self._context.cluster
        return Nodes(view, membership, shared)

    async def remove_node(self, name: str) -> None:
        """Remove a host that does not come back; see :meth:`Nodes.remove`."""
        await self._context.operations.run(self.nodes.remove(name))

    @property
    def reachability(self) -> Reachability:
        """The ways to the other hosts; raises as :attr:`nodes`."""
        if found := self._context.reachability:
            return found
        raise no_shared_store()

    async def explain(self, container_ref: str, name: str) -> Explanation:
        """Return how the resolver answers a container's query for ``name`` (or for the name of an address).

        Raises:
            Error: ``NOT_FOUND`` there is no such sandbox, or the resolver does not serve it; ``UNAVAILABLE`` there is
                no resolver, or it is away.
        """
        sandbox = self.sandboxes.find(container_ref)
        service = self._context.resolver_sync.service
        if service is None:
            message = "names are not served by a resolver here; they stand in hosts files"
            raise Error(Kind.UNAVAILABLE, message, "start the daemon with dns enabled", "no_resolver")
        if reason := self._context.resolver_sync.why_not_served(sandbox):
            hint = "names are answered in sandboxes with an interface only"
            raise Error(Kind.NOT_FOUND, reason, hint, "no_name_server")
        return await service.explain(sandbox.container_id, name)

    async def inspect_sandbox(self, container_id: str) -> list[str]:
        """Return what differs in the kernel from a container's records, as texts; nothing is repaired."""
        drifts = await self.reconcile.reconcile(Candidates((), [container_id]), fix=False)
        return [drift.problem for drift in drifts]

    def add_health_check(self, problem: Callable[[], str]) -> None:
        """Add a check to :meth:`health`, for a part of the daemon outside the controller.

        Args:
            problem: returns the problem; empty when there is none.
        """
        self._health_checks.append(problem)

    def health(self) -> Health:
        """Return the state of the daemon, and which drivers work on this host."""
        reasons = {name: driver.unavailable() for name, driver in self._context.drivers.items()}
        resolver = self._context.resolver_sync.problem()
        store = self._context.records.problems()
        hanging = self._context.workers.hanging()
        problems = (
            *hanging,
            *store,
            *self._rebuild.problems,
            *self._restore.problems,
            *self._problems,
            *self._holding.problems,
            *self._drift_watcher.problems,
            *self._lease_watcher.problems,
            *self._garbage.problems,
            *(self._follower.problems if self._follower else ()),
            *(reachability.problems if (reachability := self._context.reachability) else ()),
            *([resolver] if resolver else []),
            *filter(None, (problem() for problem in self._health_checks)),
        )
        return Health(
            "degraded" if problems else "ok",
            problems,
            tuple(
                DriverHealth(name, not reason, reason or self._context.drivers[name].limits())
                for name, reason in reasons.items()
            ),
            self._context.operations.count,
            self._context.kernel.pool.status(),
        )

    def counts(self) -> ObjectCounts:
        """Return how many objects there are."""
        records = self._context.records
        return ObjectCounts(
            Counter(net.driver for net in records.networks()),
            len(records.endpoints()),
            len(records.sandboxes()),
            len(records.attachments()),
        )

    def _make_follower(self, cluster: Cluster) -> WatchFollower:
        context, records, locks = self._context, self._context.records, self._context.locks
        leases, naming, files = context.leases, context.resolver_sync, context.host_files
        peers = PeerReplicas(records, cluster.view, cluster.membership.name, context.drivers)
        sandboxes, rebalances = self.sandboxes, PendingRebalances(self.backends)
        return WatchFollower(
            *cluster,
            records,
            NetworkReplicas(records, cluster.view, context.drivers, locks, self.removal, self.network_updates),
            EndpointReplicas(records, cluster, locks, leases, naming, files, self.removal, self.endpoint_updates),
            AttachmentReplicas(records, cluster, peers, locks, leases, naming, sandboxes, self.backends, rebalances),
            PortReplicas(records, cluster, locks, sandboxes, rebalances),
            peers,
        )

    async def _predefine(self, name: str, driver: str) -> None:
        if self._context.drivers[driver].unavailable():
            return
        try:
            await self.networks.create(NetworkSpec(name=name, driver=driver), predefined=True)
        except Error as failure:
            self._problems.append(f"network {name}: {failure}")


def _endpoint_updates(context: Context, sandboxes: Sandboxes) -> EndpointUpdates:
    return EndpointUpdates(context.records, context.operations, context.locks, context.drivers, sandboxes)


def _network_updates(context: Context, networks: Networks, sandboxes: Sandboxes) -> NetworkUpdates:
    return NetworkUpdates(context.records, context.operations, context.locks, context.drivers, networks, sandboxes)


def _engine_containers(context: Context) -> EngineContainers:
    return EngineContainers(
        context.records,
        context.locks,
        context.resolver_sync,
        context.kernel.namespaces,
        context.workers,
        EngineApi(context.settings.engine_socket),
        NETWORK_LABEL,
    )


def _port_holding(context: Context) -> PortHolding:
    return PortHolding(context.records, context.drivers, context.port_allocator, context.locks, context.workers)


def _scanner(context: Context) -> Scanner:
    desired = DesiredState(context.records, context.drivers, context.link_reaper)
    return Scanner(desired, context.drivers, context.host_files, context.host_network, context.kernel, context.workers)


def _sandbox_repair(context: Context, sandboxes: Sandboxes) -> SandboxRepair:
    names, files = context.resolver_sync, context.host_files
    return SandboxRepair(context.records, names, files, context.kernel, context.workers, sandboxes)


def _rebuild(context: Context) -> Rebuild:
    host_network, kernel = context.host_network, context.kernel
    return Rebuild(context.records, context.drivers, host_network, kernel, context.workers, context.settings)


def _health_checks(context: Context, backends: Backends) -> HealthChecks:
    namespaces, workers = context.kernel.namespaces, context.workers
    return HealthChecks(context.records, context.events, context.operations, namespaces, workers, backends)


def _lease_watcher(context: Context, sandboxes: Sandboxes) -> LeaseWatcher:
    runtime, names = (context.operations, context.locks), (context.resolver_sync, context.host_files)
    kernel = (context.kernel.supplied_links, context.workers)
    return LeaseWatcher(context.records, runtime, context.drivers, sandboxes, names, kernel)


def _process_watcher(context: Context, removal: Deletion) -> ProcessWatcher:
    return ProcessWatcher(
        context.records,
        context.events,
        context.operations,
        context.locks,
        context.kernel,
        context.workers,
        removal,
        BulkRemoval(context),
    )
