"""The composition root: the only place that names concrete classes and puts them together."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from sandnet.config import EMBEDDED, Config
from sandnet.core.boots import Boots
from sandnet.core.controller import Controller
from sandnet.core.events import Events
from sandnet.core.hostfiles import HostFiles
from sandnet.core.leases import Leases
from sandnet.core.locks import Locks
from sandnet.core.naming import Naming
from sandnet.core.operations import Operations
from sandnet.core.parts import Parts, Settings
from sandnet.core.records import Records
from sandnet.dns.base import NameService
from sandnet.dns.client import NameClient, stop_resolver
from sandnet.drivers.base import Driver
from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.tuning import Tuning
from sandnet.drivers.unlinked import UnlinkedDriver
from sandnet.errors import invalid
from sandnet.kernel.base import Kernel
from sandnet.kernel.detached import start_detached
from sandnet.kernel.files import Files
from sandnet.kernel.linux import LinuxKernel
from sandnet.kernel.reaper import Reaper
from sandnet.kernel.workers import Workers
from sandnet.stores.base import Store
from sandnet.stores.memory import MemoryStore
from sandnet.stores.sqlite import SqliteStore

DNS_SOCKET = "dns.sock"
DNS_LOG = "dns.log"


@asynccontextmanager
async def composed(config: Config) -> AsyncIterator[Controller]:
    """A controller over the real parts, closed in the end.

    Raises:
        Error: ``UNAVAILABLE`` when the store cannot be opened.
    """
    store = await _open_store(config)
    workers = Workers()
    kernel = LinuxKernel(config.sandbox_dir)
    names = name_client(config) if config.dns else None
    try:
        if names:
            names.open()
        else:
            await stop_resolver(os.path.join(config.run_dir, DNS_SOCKET))
        yield assemble(config, store, kernel, workers, names)
    finally:
        if names:
            await names.close()
        workers.close()
        kernel.close()
        await store.close()


def name_client(config: Config) -> NameClient:
    """The resolver is started detached: it goes on answering when this process ends."""
    # -P: whatever directory we were started in, nothing is imported from it
    command = [sys.executable, "-P", "-m", "sandnet.resolver", "--detach"]
    command += ["--run-dir", config.run_dir, "--sandbox-dir", config.sandbox_dir]
    command += ["--outstanding", str(config.dns_outstanding)]
    # another configuration is another release: the running resolver is replaced without a lost question
    release = f"{version('sandnet')} {config.dns_outstanding} {config.dns_host_listen}".rstrip()
    command += ["--release", release]
    if config.dns_host_listen:
        command += ["--host-listen", config.dns_host_listen]

    async def start() -> None:
        await asyncio.to_thread(start_detached, command, os.path.join(config.run_dir, DNS_LOG))

    return NameClient(os.path.join(config.run_dir, DNS_SOCKET), release, start)


def assemble(
    config: Config, store: Store, kernel: Kernel, workers: Workers, names: NameService | None = None
) -> Controller:
    """A controller put together from its parts, over any store, kernel and resolver."""
    reaper = Reaper(kernel.links, workers)
    events = Events()
    records = Records(store, events)
    naming = Naming(records, names)
    files_dir = os.path.join(config.state_dir, "sandboxes")
    files = Files([config.state_dir, *config.file_dirs])
    tuning = Tuning(kernel.sysctl, store, workers)
    drivers: list[Driver] = [
        UnlinkedDriver("null"),
        UnlinkedDriver("host"),
        BridgeDriver(kernel, workers, reaper, tuning, config.pools, forward_others=config.forward_others),
    ]
    parts = Parts(
        settings=Settings(config.sandbox_dir, files_dir, config.default_network),
        records=records,
        boots=Boots(store, kernel.sysctl, workers),
        leases=Leases(records),
        naming=naming,
        events=events,
        files=HostFiles(records, files, workers, naming, files_dir),
        locks=Locks(),
        operations=Operations(),
        drivers={driver.name: driver for driver in drivers},
        kernel=kernel,
        workers=workers,
        reaper=reaper,
    )
    return Controller(parts)


async def _open_store(config: Config) -> Store:
    path = store_file(config)
    if path is None:
        return MemoryStore()
    store = SqliteStore(path)
    await store.open()
    return store


def store_file(config: Config) -> Path | None:
    """Where the embedded store is; ``None``: in memory.

    Raises:
        Error: ``INVALID``: the configuration names a store that there is not.
    """
    if config.store == "memory:":
        return None
    if config.store == EMBEDDED:
        return Path(config.state_dir, "sandnet.db")
    if config.store.startswith("sqlite:///"):
        return Path(config.store.removeprefix("sqlite://"))
    raise invalid(f"unknown store {config.store!r}", "use sqlite, sqlite:///path or memory:", "unknown_store")
