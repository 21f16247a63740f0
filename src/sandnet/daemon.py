"""The daemon's life, from start to stop, and the removal of all that it made."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from sandnet.api.app import create_app
from sandnet.composition import composed
from sandnet.config import Config
from sandnet.core.controller import Controller
from sandnet.instance import PID_FILE, lock_file, only_one, stop_running
from sandnet.listening import listen, notify, unlink

GRACE = 10
"""Seconds a stopping server gives to requests in flight."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; networks and sandboxes go on working afterwards.

    Raises:
        Error: the daemon cannot start; the message says why and the hint what to do.
    """
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _raise_file_limit()
    with only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))
    return 0


def down(config: Config) -> int:
    """Remove all that was made with this configuration's directories; stops a running daemon first.

    Returns:
        The exit code: 1 when something could not be removed, each told on stderr.
    """
    logging.basicConfig(level="ERROR", format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    _raise_file_limit()
    stop_running(config)
    with only_one(config), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
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
        server = _Server(controller, [each.url for each in listeners])
        await server.serve(sockets=[each.socket for each in listeners])
        unlink([each.url for each in listeners if each.ours])
        await controller.stop()


async def _take_down(config: Config) -> list[str]:
    async with composed(msgspec.structs.replace(config, dns=False)) as controller:
        return await controller.remove_everything()


def _remove_own_files(config: Config) -> None:
    """The empty store, the sockets and our directories; a directory that holds anything else stays."""
    for path in Path(config.state_dir).glob("sandnet.db*"):
        path.unlink(missing_ok=True)
    unlink(config.hosts)
    Path(lock_file(config)).unlink(missing_ok=True)
    for path in (Path(config.run_dir, PID_FILE), *Path(config.run_dir).glob("dns.*")):
        path.unlink(missing_ok=True)
    for directory in (
        os.path.join(config.state_dir, "sandboxes"),
        config.state_dir,
        config.run_dir,
        config.sandbox_dir,
    ):
        with suppress(OSError):
            os.rmdir(directory)


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
        self._controller = controller
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which would never end by themselves, then wait for the requests in flight."""
        notify("STOPPING=1")
        self._controller.events.close()
        await super().shutdown(sockets)

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
