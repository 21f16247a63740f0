"""The composition root: the only place that names concrete classes and constructs the daemon from them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from sandnet.config import EMBEDDED, Config
from sandnet.core.cluster import shared_values
from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.machine_identity import machine_digest
from sandnet.core.cluster.shared_records import SharedRecords
from sandnet.core.cluster.shared_values import HostRecord
from sandnet.core.cluster.view import ClusterView
from sandnet.core.controller import Controller
from sandnet.core.names.host_files import HostFiles
from sandnet.core.names.resolver_sync import ResolverSync
from sandnet.core.reachability.probe_exchange import OpenReceiver, ProbeExchange
from sandnet.core.reachability.reachability import Reachability
from sandnet.core.runtime.context import Cluster, Context, Settings
from sandnet.core.runtime.locks import Locks
from sandnet.core.runtime.operations import Operations
from sandnet.core.state.boot_id import BootId
from sandnet.core.state.engine_records import EngineRecords
from sandnet.core.state.events import Events
from sandnet.core.state.leases import Leases
from sandnet.core.state.records import Records
from sandnet.dns.base import NameService
from sandnet.dns.client import NameClient, stop_resolver
from sandnet.dns.control_protocol import HOST, PROTOCOL, SOCKET, Lack
from sandnet.dns.socket_provider import OpenSockets, Run
from sandnet.dns.takeover import OpenedSockets, claim
from sandnet.drivers.base import Driver
from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.host_network import HostNetwork
from sandnet.drivers.macvlan import MacvlanDriver
from sandnet.drivers.null import NullDriver, UnsupportedDriver
from sandnet.drivers.overlay.driver import NO_SHARED_STORE, OverlayDriver, OverlaySettings
from sandnet.drivers.overlay.encryption import Encryption, TunnelSettings
from sandnet.drivers.port_allocator import PortAllocator
from sandnet.drivers.readonly_sysctls import readonly_problem
from sandnet.drivers.registry import DriverRegistry
from sandnet.drivers.remote.plugins import PluginDrivers
from sandnet.drivers.sysctls import SysctlManager
from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.kernel.base import Kernel
from sandnet.kernel.link_reaper import LinkReaper
from sandnet.kernel.linux.kernel import LinuxKernel
from sandnet.kernel.linux.namespace_sockets import open_query_sockets_in, open_sockets, open_sockets_in
from sandnet.kernel.linux.pool.pool_size import PoolLimits
from sandnet.kernel.linux.pool.preparation import Listen
from sandnet.kernel.linux.vxlan.probe_link import open_probe_socket
from sandnet.kernel.safe_files import Files
from sandnet.kernel.spawn import start_detached
from sandnet.kernel.vxlan.base import Underlay
from sandnet.kernel.workers import Workers
from sandnet.model import name_server
from sandnet.model.address import Address
from sandnet.prerequisites import installed_release
from sandnet.stores.base import Store
from sandnet.stores.memory import MemoryStore
from sandnet.stores.shared import SharedStore
from sandnet.stores.sqlite.store import SqliteStore

DNS_LOG = "dns.log"
PREDEFINED_NETWORKS: Final = (("none", "null"), ("host", "host"), ("bridge", "bridge"))
"""Networks that exist from the first start, and their drivers."""
ENGINE_DRIVER: Final = "bridge"
"""Driver of the networks that container engines create."""


@asynccontextmanager
async def composed(config: Config) -> AsyncIterator[Controller]:
    """Yield a controller over the real kernel and store, and close these in the end.

    Raises:
        Error: ``UNAVAILABLE`` when the store cannot be opened.
    """
    store = await _open_store(config)
    shared_store = open_shared_store(config)
    workers = Workers()
    kernel = linux_kernel(config)
    names = name_client(config, workers.run) if config.dns else None

    async def open_probes(local: Address, port: int) -> socket.socket:
        return await workers.run(open_probe_socket, local, port)

    try:
        if names:
            names.open()
        else:
            await stop_resolver(os.path.join(config.run_dir, SOCKET))
        yield assemble(config, store, kernel, workers, names, shared_store, open_probes)
    finally:
        if names:
            await names.close()
        workers.close()
        kernel.close()
        if shared_store:
            await shared_store.close()
        await store.close()


def linux_kernel(config: Config) -> LinuxKernel:
    """Return the kernel of this machine, with the pool of prepared sandboxes that the configuration requests."""
    listen = Listen(name_server.ADDRESS, name_server.PORT) if config.dns else None
    return LinuxKernel(
        config.sandbox_dir,
        listen,
        PoolLimits(config.prepared_sandboxes, config.prepared_sandboxes_limit),
        run_dir=config.run_dir,
        userspace_wireguard=config.wireguard_userspace,
    )


def name_client(config: Config, run: Run = asyncio.to_thread) -> NameClient:
    """Return the name service over a resolver that is started detached: it goes on answering when this process ends.

    Args:
        config: the daemon's configuration.
        run: runs a job on a worker thread.
    """
    # -P: nothing is imported from the current directory
    command = [sys.executable, "-P", "-m", "sandnet.resolver", "--detach", "--run-dir", config.run_dir]
    command += ["--outstanding", str(config.dns_outstanding)]
    # another configuration counts as another release: the running resolver is replaced without a lost query
    wanted = f"{installed_release()} {PROTOCOL} {config.dns_outstanding} {config.dns_host_listen}".rstrip()
    command += ["--release", wanted]
    if config.dns_host_listen:
        command += ["--host-listen", config.dns_host_listen]

    host_listen = _endpoint(config.dns_host_listen) if config.dns_host_listen else None

    async def start() -> None:
        await asyncio.to_thread(start_resolver, config.run_dir, wanted, command)

    return NameClient(
        os.path.join(config.run_dir, SOCKET),
        wanted,
        start,
        socket_opener(config.sandbox_dir, host_listen),
        run,
        host_listen,
    )


def start_resolver(run_dir: str, release: str, command: list[str]) -> None:
    """Start a resolver for a run directory, unless one of this release serves there.

    Raises:
        Error: ``UNAVAILABLE`` it cannot be started.
    """
    try:
        listener = claim(run_dir, release)
    except OSError as failure:
        raise Error(Kind.UNAVAILABLE, f"cannot make {run_dir}/{SOCKET}: {failure.strerror}") from failure
    if listener:
        with listener:
            number = listener.fileno()
            start_detached([*command, "--listener", str(number)], os.path.join(run_dir, DNS_LOG), [number])


def socket_opener(sandbox_dir: str, host_listen: tuple[str, int] | None) -> OpenSockets:
    """Return a function that opens the resolver's sockets in namespaces below a directory, and the host's."""
    root = sandbox_dir.rstrip("/") + "/"

    def open_sockets(
        key: str, inode: int, lack: Lack, *, beside_another: bool, at: Address | None = None
    ) -> OpenedSockets:
        if lack.container_id == HOST:
            return OpenedSockets(0, _listen_on_host(host_listen))
        if at is not None:
            return OpenedSockets(0, _listen_on_host((str(at), name_server.PORT), is_assigned=False))
        if not key.startswith(root) or ".." in key.split("/"):
            raise not_found("namespace", key, f"only those below {root} are served")
        address = name_server.SECOND_ADDRESS if beside_another else name_server.ADDRESS
        listening = open_sockets_in(key, inode, address, name_server.PORT) if lack.listening else ()
        return OpenedSockets(inode, listening, _query_sockets(key, inode, lack))

    return open_sockets


def _query_sockets(key: str, inode: int, lack: Lack) -> tuple[socket.socket, ...]:
    """Return sockets for queries to servers inside; none on failure if the listening ones are of use without them."""
    try:
        return open_query_sockets_in(key, inode, lack.asking) if lack.asking else ()
    except Error:
        if not lack.listening:
            raise
        return ()


def _listen_on_host(
    host_listen: tuple[str, int] | None, *, is_assigned: bool = True
) -> tuple[socket.socket, socket.socket]:
    if host_listen is None:
        raise invalid("no address is configured at which the host may ask", code="invalid_configuration")
    address, port = host_listen
    try:
        return open_sockets(ip_address(address), port, is_assigned=is_assigned)
    except OSError as failure:
        raise Error(Kind.UNAVAILABLE, f"cannot listen at {address} port {port}: {failure.strerror}") from failure


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return str(ip_address(host.strip("[]"))), int(port)


def assemble(
    config: Config,
    store: Store,
    kernel: Kernel,
    workers: Workers,
    names: NameService | None = None,
    shared_store: SharedStore | None = None,
    open_probes: OpenReceiver | None = None,
) -> Controller:
    """Return a controller constructed from its context, over any stores, kernel and resolver.

    Without ``open_probes`` other hosts are not probed.
    """
    reaper = LinkReaper(kernel.links, workers)
    events = Events()
    records = Records(store, events)
    engine_records = EngineRecords(store)
    naming = ResolverSync(records, names)
    files = Files([config.state_dir, config.own_files[0], *config.file_dirs])
    host_network = HostNetwork(
        kernel,
        workers,
        SysctlManager(kernel.sysctl, store, workers),
        forward_others=config.forward_others,
        max_flows=config.max_flows,
    )
    drivers = own_drivers(config, kernel, workers, reaper, host_network)
    overlay = next(driver for driver in drivers if isinstance(driver, OverlayDriver))
    cluster = _cluster(config, shared_store, records, overlay) if shared_store else None
    context = Context(
        settings=_settings(config),
        records=records,
        engine_records=engine_records,
        boot_id=BootId(store, kernel.sysctl, workers),
        leases=Leases(records, engine_records),
        resolver_sync=naming,
        events=events,
        host_files=HostFiles(records, files, workers, naming, config.own_files),
        locks=Locks(),
        operations=Operations(),
        drivers=DriverRegistry(
            drivers,
            PluginDrivers(config.plugin_dirs, kernel, workers, config.pools),
            lambda: {network.driver for network in records.networks()},
        ),
        host_network=host_network,
        port_allocator=PortAllocator(kernel.host),
        kernel=kernel,
        workers=workers,
        link_reaper=reaper,
        cluster=cluster,
        reachability=_reachability(config, cluster, records, overlay, open_probes) if cluster and open_probes else None,
    )
    if context.cluster:
        records.shared_writer = context.cluster.shared
    controller = Controller(context)
    controller.add_health_check(partial(readonly_problem, kernel.sysctl))
    controller.add_health_check(lambda: kernel.pool.status().problem)
    return controller


def _settings(config: Config) -> Settings:
    return Settings(
        config.sandbox_dir,
        config.own_files[0],
        config.default_network,
        PREDEFINED_NETWORKS,
        ENGINE_DRIVER,
        config.engine_socket,
    )


def own_drivers(
    config: Config, kernel: Kernel, workers: Workers, reaper: LinkReaper, host_network: HostNetwork
) -> list[Driver]:
    """Return the daemon's own drivers."""
    local, shared = (
        BridgeDriver(kernel, workers, reaper, host_network, config.pools, shared=each) for each in (False, True)
    )
    tunnel = TunnelSettings(config.state_dir, config.wireguard_port, config.key_period)
    encryption = Encryption(kernel.tunnels, workers, tunnel)
    return [
        NullDriver("null"),
        NullDriver("host"),
        local,
        MacvlanDriver(kernel, workers, config.dhcp_timeout),
        UnsupportedDriver("ipvlan", kernel.supplied_links.stacking_problem("ipvlan")),
        OverlayDriver(kernel, workers, host_network, shared, encryption, overlay_settings(config)),
    ]


def _cluster(config: Config, store: SharedStore, records: Records, driver: OverlayDriver) -> Cluster:
    """Return this host's part in networks of several hosts."""
    view = ClusterView()

    async def describe(host: HostRecord, published: HostRecord | None) -> HostRecord:
        tunnel = await driver.announce(published.tunnel if published else None)
        try:
            return replace(host, underlay=(await driver.underlay()).address, tunnel=tunnel)
        except Error:  # the driver has the reason; what needs no other host goes on
            return replace(host, underlay=None, tunnel=tunnel)

    host = HostRecord(
        name=config.host_name or socket.gethostname(),
        release=installed_release(),
        formats=shared_values.FORMATS,
        machine=machine_digest(),
    )
    membership = HostMembership(store, view, host, describe, take_over=config.take_over)
    shared = SharedRecords(membership, view, {OverlayDriver.name}.__contains__, records.network, records.sandbox)
    return Cluster(store, view, membership, shared)


def _reachability(
    config: Config, cluster: Cluster, records: Records, overlay: OverlayDriver, open_probes: OpenReceiver
) -> Reachability:
    """Return what knows the ways to the other hosts; the driver of networks over them asks it."""

    async def underlay() -> Underlay | None:
        try:
            return await overlay.underlay()
        except Error:  # the membership reports it
            return None

    name, view = cluster.membership.name, cluster.view
    exchange = ProbeExchange(name, view.hosts, open_probes, config.vxlan_port)
    reachability = Reachability(name, view, exchange, underlay, records.networks)
    overlay.smallest_path = reachability.smallest_path
    return reachability


def overlay_settings(config: Config) -> OverlaySettings:
    """Return the settings of networks over several hosts; without a store that the hosts share there are none."""
    underlay = ip_address(config.underlay) if config.underlay else None
    return OverlaySettings(underlay, config.vxlan_port, "" if config.shared_store else NO_SHARED_STORE)


async def _open_store(config: Config) -> Store:
    path = store_file(config)
    if path is None:
        return MemoryStore()
    store = SqliteStore(path)
    await store.open()
    return store


def store_file(config: Config) -> Path | None:
    """Return the path of the embedded store; ``None``: in memory.

    Raises:
        Error: ``INVALID``: the configuration names an unknown store.
    """
    if config.store == "memory:":
        return None
    if config.store == EMBEDDED or config.shared_store:
        return Path(config.state_dir, "sandnet.db")
    if config.store.startswith("sqlite:///"):
        return Path(config.store.removeprefix("sqlite://"))
    hint = "use sqlite, sqlite:///path, memory: or etcd://HOST:PORT/PREFIX"
    raise invalid(f"unknown store {config.store!r}", hint, "unknown_store")


def open_shared_store(config: Config) -> SharedStore | None:
    """Return the store that several hosts share, not connected yet; ``None``: the configuration names none."""
    location = config.shared_store
    if location is None:
        return None
    from sandnet.stores.etcd.etcd_store import EtcdStore  # what few hosts need costs the others no memory

    return EtcdStore(location)
