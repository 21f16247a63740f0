"""The parts that all of the core shares."""

from __future__ import annotations

from typing import NamedTuple

from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.shared_records import SharedRecords
from sandnet.core.cluster.view import ClusterView
from sandnet.core.names.host_files import HostFiles
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.reachability.reachability import Reachability
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.boot_id import BootId
from sandnet.core.state.engine_records import EngineRecords
from sandnet.core.state.events import Events
from sandnet.core.state.leases import Leases
from sandnet.core.state.records import Records
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.port_allocator import PortAllocator
from sandnet.drivers.registry import DriverRegistry
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.workers import Workers
from sandnet.stores.shared import SharedStore


class Settings(NamedTuple):
    """The operator's settings of the core."""

    sandbox_dir: str
    files_dir: str
    """The directory for hosts and resolv.conf files without a requested path."""
    default_network: str
    predefined_networks: tuple[tuple[str, str], ...]
    """Networks that exist from the first start, and their drivers."""
    engine_driver: str
    """Driver of the networks that container engines create."""
    engine_socket: str = ""
    """Path of a container engine's API; empty: none."""


class Cluster(NamedTuple):
    """This host's part in networks of several hosts."""

    store: SharedStore
    view: ClusterView
    membership: HostMembership
    shared: SharedRecords


class Context(NamedTuple):
    """The shared parts, created once by the composition root."""

    settings: Settings
    records: Records
    engine_records: EngineRecords
    boot_id: BootId
    leases: Leases
    resolver_sync: ResolverSync
    events: Events
    host_files: HostFiles
    locks: Locks
    operations: Operations
    drivers: DriverRegistry
    host_network: HostNetwork
    port_allocator: PortAllocator
    kernel: Kernel
    workers: Workers
    link_reaper: LinkReaper
    cluster: Cluster | None = None
    """``None``: all networks are this host's alone."""
    reachability: Reachability | None = None
    """``None``: there are no other hosts, or they cannot be probed."""
