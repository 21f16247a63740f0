"""The composition root: the only place that names concrete classes, and the daemon's life from start to stop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import uvicorn
import uvloop

from sandnet.api.app import create_app
from sandnet.config import EMBEDDED, Config
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
from sandnet.drivers.base import Driver
from sandnet.drivers.bridge.driver import BridgeDriver
from sandnet.drivers.tuning import Tuning
from sandnet.drivers.unlinked import UnlinkedDriver
from sandnet.errors import Error, Kind, invalid
from sandnet.kernel.base import Kernel
from sandnet.kernel.files import Files
from sandnet.kernel.linux import LinuxKernel
from sandnet.kernel.reaper import Reaper
from sandnet.kernel.workers import Workers
from sandnet.listening import listen, notify
from sandnet.stores.base import Store
from sandnet.stores.memory import MemoryStore
from sandnet.stores.sqlite import SqliteStore

_log = logging.getLogger(__name__)

PID_FILE = "sandnet.pid"
STOP_DEADLINE = 30.0
"""Seconds ``down`` waits for a running daemon to stop."""
GRACE = 10
"""Seconds a stopping server gives to requests in flight."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; networks and sandboxes go on working afterwards.

    Raises:
        Error: the daemon cannot start; the message says why and the hint what to do.
    """
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _raise_file_limit()
    with _only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))
    return 0


def down(config: Config) -> int:
    """Remove all that was made with this configuration's directories; stops a running daemon first.

    Returns:
        The exit code: 1 when something could not be removed, each told on stderr.
    """
    logging.basicConfig(level="ERROR", format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _raise_file_limit()
    _stop_running(config)
    with _only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        problems = runner.run(_take_down(config))
        if not problems:
            _remove_own_files(config)
    for problem in problems:
        print(f"sandnet: {problem}", file=sys.stderr)
    return 1 if problems else 0


async def _serve(config: Config) -> None:
    async with composed(config) as controller:
        await controller.start()
        listeners = listen(config.hosts)
        server = _Server(controller, [url for url, _ in listeners])
        await server.serve(sockets=[listener for _, listener in listeners])
        notify("STOPPING=1")
        await controller.stop()


async def _take_down(config: Config) -> list[str]:
    async with composed(config) as controller:
        return await controller.remove_everything()


def _remove_own_files(config: Config) -> None:
    """The empty store, the sockets and our directories; a directory that holds anything else stays."""
    for path in Path(config.state_dir).glob("sandnet.db*"):
        path.unlink(missing_ok=True)
    for url in config.hosts:
        if url.startswith("unix://"):
            Path(url.removeprefix("unix://")).unlink(missing_ok=True)
    Path(_lock_file(config)).unlink(missing_ok=True)
    Path(config.run_dir, PID_FILE).unlink(missing_ok=True)
    for directory in (
        os.path.join(config.state_dir, "sandboxes"),
        config.state_dir,
        config.run_dir,
        config.sandbox_dir,
    ):
        with suppress(OSError):
            os.rmdir(directory)


@asynccontextmanager
async def composed(config: Config) -> AsyncIterator[Controller]:
    """A controller over the real parts, closed in the end.

    Raises:
        Error: ``UNAVAILABLE`` when the store cannot be opened.
    """
    store = await _open_store(config)
    workers = Workers()
    kernel = LinuxKernel(config.sandbox_dir)
    try:
        yield assemble(config, store, kernel, workers)
    finally:
        workers.close()
        kernel.close()
        await store.close()


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
        BridgeDriver(kernel, workers, reaper, tuning, config.pools),
    ]
    parts = Parts(
        settings=Settings(config.sandbox_dir, files_dir, config.default_network),
        records=records,
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
    if config.store == "memory:":
        return MemoryStore()
    if config.store != EMBEDDED and not config.store.startswith("sqlite:///"):
        raise invalid(f"unknown store {config.store!r}", "use sqlite, sqlite:///path or memory:", "unknown_store")
    default = os.path.join(config.state_dir, "sandnet.db")
    store = SqliteStore(Path(config.store.removeprefix("sqlite://") if config.store != EMBEDDED else default))
    await store.open()
    return store


class _Server(uvicorn.Server):
    """Uvicorn, which tells when it serves."""

    def __init__(self, controller: Controller, urls: list[str]) -> None:
        app = create_app(controller, version=version("sandnet"))
        settings = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(settings)
        self._urls = urls

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT; uvicorn's own handler would raise them again before we are done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, then say so."""
        await super().startup(sockets)
        print(f"sandnet: ready on {' '.join(self._urls)}", flush=True)
        notify("READY=1")


def _raise_file_limit() -> None:
    """Every published port holds a descriptor: use all that the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _only_one(config: Config) -> Iterator[None]:
    """One daemon a state directory (a file lock) and one a network namespace (an abstract socket's name).

    Raises:
        Error: ``CONFLICT`` when another daemon is there.
    """
    Path(config.run_dir).mkdir(mode=0o755, parents=True, exist_ok=True)
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked_directory(config), _claimed_namespace():
        pid_file = Path(config.run_dir, PID_FILE)
        pid_file.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            pid_file.unlink(missing_ok=True)


@contextmanager
def _locked_directory(config: Config) -> Iterator[None]:
    fd = os.open(_lock_file(config), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _try_lock(fd):
            hint = "stop it first, or give this one directories of its own"
            raise Error(Kind.CONFLICT, f"another daemon uses {config.state_dir}", hint, "daemon_running")
        yield
    finally:
        os.close(fd)


@contextmanager
def _claimed_namespace() -> Iterator[None]:
    """Abstract socket names belong to a network namespace (unix(7)), just as what we manage does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind("\0sandnet")
        except OSError as failure:
            message = "another sandnet daemon manages this host's network"
            hint = "stop it first: two of them would take each other's rules for strays"
            raise Error(Kind.CONFLICT, message, hint, "daemon_running") from failure
        yield


def _lock_file(config: Config) -> str:
    return os.path.join(config.state_dir, "lock")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop_running(config: Config) -> None:
    """Ask the daemon of these directories to stop, and wait until it has."""
    try:
        pid = int(Path(config.run_dir, PID_FILE).read_text())
        watched = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if _is_locked(config):
            signal.pidfd_send_signal(watched, signal.SIGTERM)
            _wait_until_unlocked(config)
    finally:
        os.close(watched)


def _is_locked(config: Config) -> bool:
    """Whether a live daemon holds the state directory: a pid file alone may be stale, its number reused."""
    try:
        fd = os.open(_lock_file(config), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _wait_until_unlocked(config: Config) -> None:
    deadline = time.monotonic() + STOP_DEADLINE
    while _is_locked(config):
        if time.monotonic() > deadline:
            raise Error(Kind.UNAVAILABLE, f"the daemon has not stopped in {STOP_DEADLINE:.0f} s", code="daemon_running")
        time.sleep(0.02)
