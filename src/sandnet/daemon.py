"""The daemon's lifecycle from start to stop, and the removal of all that it made."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop

from sandnet.composition import composed
from sandnet.config import Config
from sandnet.drivers.overlay.encryption import KEY_FILE
from sandnet.escaping import printable
from sandnet.kernel.linux.nftables import descriptors, require_library
from sandnet.logs import DAEMON, FILE, FileHandler, configure
from sandnet.serving import background_start
from sandnet.serving.directories import make_folders, remove_folders
from sandnet.serving.http_server import Server
from sandnet.serving.recorded_config import record_config, recorded_config, remove_record
from sandnet.serving.single_instance import PID_FILE, lock_file, only_one, stop_running
from sandnet.serving.sockets import check, listen, unlink
from sandnet.serving.tls import certificates

__all__ = ["down", "recorded_config", "run", "run_in_background"]

_log = logging.getLogger(__name__)

STOP_TIMEOUT = 15.0
"""Seconds that changes in progress have after the server has stopped; the systemd unit kills after 30 in all."""
YOUNG_OBJECTS = 10_000
"""Objects that are created between two young collections: those of some ten requests."""


def run(config: Config, *, to_file: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; networks and sandboxes continue to work afterwards.

    Args:
        config: the daemon's configuration.
        to_file: whether stderr is the daemon's own log file: its lines need a time, and its size a limit.

    Raises:
        Error: the daemon cannot start; the message has the reason and the hint a remedy.
    """
    configure(config.log_level, *((FILE, FileHandler()) if to_file else (DAEMON,)))
    require_library()
    _raise_file_limit()
    with only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        make_folders(config)
        runner.run(_serve(config))
    return 0


def run_in_background(config: Config) -> str:
    """Serve in a child process in the background.

    Returns:
        The path of its log, once it serves.

    Raises:
        Error: as :func:`run`.
    """
    return background_start.start(config, lambda: run(config, to_file=True))


def down(config: Config) -> int:
    """Remove all that was made with this configuration's directories; stops a running daemon first.

    Returns:
        The exit code: 1 when something could not be removed, with each problem printed on stderr.
    """
    configure("error", DAEMON)
    _raise_file_limit()
    stop_running(config)
    with only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        problems = runner.run(_remove_everything(config))
        if not problems:
            _remove_own_files(config)
    for problem in problems:
        print(f"sandnet: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


async def _serve(config: Config) -> None:
    tls = certificates(config)
    check(config.hosts, tls)
    async with composed(config) as controller:
        record_config(config)
        await controller.start()
        listeners = listen(config.hosts, tls, config.plugin_socket)
        server = Server(controller, listeners, config.server_names, tls)
        spare_garbage_collection()
        await server.serve()
        end_within(STOP_TIMEOUT)
        unlink([each.url for each in listeners if each.ours])
        await controller.stop()


def spare_garbage_collection() -> None:
    """Leave what exists now out of garbage collections, and let the young ones come less often.

    A full collection of the modules and of the HTTP application takes 8 ms or more, in which no request is answered,
    and finds nothing: they live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def end_within(seconds: float) -> None:
    """End this process within this time, even if a kernel call hangs.

    A kernel call that does not return cannot be awaited. It leaves the same state as SIGKILL would: the next start
    completes the operation.
    """
    timer = threading.Timer(seconds, _exit_hung, [seconds])
    timer.daemon = True
    timer.start()


def _exit_hung(seconds: float) -> None:
    _log.error("something has hung for %g s; the next start finishes what was under way", seconds)
    os._exit(1)


async def _remove_everything(config: Config) -> list[str]:
    async with composed(msgspec.structs.replace(config, dns=False)) as controller:
        problems = await controller.remove_everything()
    if controller.ended:
        many = f"{len(controller.ended)} commands" if len(controller.ended) > 1 else "a command"
        print(f"sandnet: ended {many} of sandnet run (processes {', '.join(map(str, controller.ended))})")
    return problems


def _remove_own_files(config: Config) -> None:
    """Remove the empty store, the sockets and sandnet's directories; a directory with anything else in it stays."""
    store = Path(config.state_dir, "sandnet.db")
    for path in (*store.parent.glob("sandnet.db?*"), store):  # copies without their store look like a lost store
        path.unlink(missing_ok=True)
    unlink(config.hosts)
    if config.plugin_socket:
        unlink([f"unix://{config.plugin_socket}"])
    Path(lock_file(config)).unlink(missing_ok=True)
    for path in (
        Path(config.run_dir, PID_FILE),
        Path(config.run_dir, background_start.LOG),
        *Path(config.run_dir).glob("dns.*"),
        *Path(config.run_dir).glob("wireguard.*"),
        Path(config.state_dir, KEY_FILE),
    ):
        path.unlink(missing_ok=True)
    remove_record(config)
    remove_folders(config)
    for directory in (*config.own_files, config.state_dir, config.run_dir):
        with suppress(OSError):
            os.rmdir(directory)


def _raise_file_limit() -> None:
    """Raise the limit of descriptors to the hard one: every published port needs one. Keep low ones for nftables."""
    descriptors.reserve(insist=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
