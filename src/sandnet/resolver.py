"""The resolver's own process: ``python -m sandnet.resolver --run-dir DIR --sandbox-dir DIR``.

It answers names in all sandboxes and goes on doing so while the daemon is away. It ends on SIGTERM or when it
is told to; what it knows comes from the daemon over ``<run-dir>/dns.sock``, and nothing is kept on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from ipaddress import ip_address
from typing import Final

import uvloop

from sandnet.dns.answers import OUTSTANDING, Answers
from sandnet.dns.base import SERVER_ADDRESS
from sandnet.dns.claim import claim, give_up, stop_former
from sandnet.dns.control import Control
from sandnet.dns.hostservers import HostServers
from sandnet.dns.server import Server, Sockets
from sandnet.dns.upstream import DEADLINE, PORT, Upstream
from sandnet.errors import not_found
from sandnet.kernel.detached import LOG_LIMIT
from sandnet.kernel.inside import listen_here, listen_inside
from sandnet.kernel.privileges import Capability, keep_only
from sandnet.logs import RESOLVER, configure
from sandnet.model.address import Address

_log = logging.getLogger(__name__)

Endpoint = tuple[Address, int]

PATIENCE: Final = 2
"""Looks in a row that find no socket before the process ends: a successor replaces it by rename, without a gap."""
RETRY: Final = 5.0
"""Seconds between two tries to serve a sandbox in which the port was taken."""
NEEDED: Final = (Capability.SYS_ADMIN, Capability.NET_BIND_SERVICE)
"""To enter sandboxes, and to listen on port 53 in them."""
_READY: Final = b"\0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 0 also when a resolver of this release serves already."""
    options = _parser().parse_args(arguments)
    return _in_background(options) if options.detach else _run(options, lambda: None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandnet.resolver", description="Answers names in sandboxes.")
    parser.add_argument("--run-dir", required=True, help="directory of the socket dns.sock")
    parser.add_argument("--sandbox-dir", required=True, help="directory below which namespaces are pinned")
    parser.add_argument("--host-listen", type=_endpoint, help="ADDR:PORT at which the host itself may ask")
    parser.add_argument("--outstanding", type=int, default=OUTSTANDING, help="questions a sandbox may have under way")
    parser.add_argument("--release", default=version("sandnet"), help="what this process says it is")
    parser.add_argument("--detach", action="store_true", help="go to the background, and return once it serves")
    return parser


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    if not 0 < int(port) < 65536:
        raise ValueError(text)
    return ip_address(host.strip("[]")), int(port)


def _in_background(options: argparse.Namespace) -> int:
    """Serve in a child, which belongs to nobody once this process ends; the exit code says whether it serves."""
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return 0 if os.read(told, 1) == _READY else 1
    os.close(told)
    os.chdir("/")

    def tell_parent() -> None:
        os.write(tell, _READY)
        os.close(tell)

    return _run(options, tell_parent)


def _run(options: argparse.Namespace, ready: Callable[[], None]) -> int:
    configure("info", RESOLVER, _BoundedHandler())
    _raise_file_limit()
    keep_only(NEEDED)
    listener = claim(options.run_dir, options.release)
    if listener is None:
        _log.info("a resolver of release %s serves %s already", options.release, options.run_dir)
        ready()
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, listener, ready))
    return 0


async def _serve(options: argparse.Namespace, listener: socket.socket, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[bool] = loop.create_future()
    inode = os.lstat(listener.getsockname()).st_ino
    server = _assembled(options)

    def stop(drain: bool) -> None:
        if not ending.done():
            ending.set_result(drain)

    async def complete() -> None:
        gc.freeze()  # a full collection over the names of 1,000 sandboxes takes 20 ms, and they hold no cycles
        await asyncio.to_thread(stop_former, options.run_dir)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, False)
    control = Control(server, options.release, complete, stop)
    callers = await asyncio.start_unix_server(control.serve, sock=listener)
    retrying = loop.create_task(_look_after(server, listener.getsockname(), lambda: stop(False)))
    ready()
    _log.info("serving %s, release %s, process %d", options.run_dir, options.release, os.getpid())
    if await ending:
        with suppress(TimeoutError):
            await asyncio.wait_for(server.drain(), DEADLINE)
    retrying.cancel()
    callers.close()
    server.close()
    give_up(options.run_dir, inode)
    _log.info("process %d ends", os.getpid())


def _assembled(options: argparse.Namespace) -> Server:
    own = {ip_address(SERVER_ADDRESS)}
    if options.host_listen and options.host_listen[1] == PORT:
        own.add(options.host_listen[0])
    answers = Answers(Upstream(), HostServers(), own=own, outstanding=options.outstanding)
    server = Server(answers, _opener(options.sandbox_dir))
    if options.host_listen:
        _serve_host(server, *options.host_listen)
    return server


def _opener(sandbox_dir: str) -> Callable[[str, int], Sockets]:
    root = sandbox_dir.rstrip("/") + "/"

    def open_sockets(key: str, inode: int) -> Sockets:
        if not key.startswith(root) or ".." in key.split("/"):
            raise not_found("namespace", key, f"only those below {root} are served")
        return listen_inside(key, inode, ip_address(SERVER_ADDRESS), PORT)

    return open_sockets


def _serve_host(server: Server, address: Address, port: int) -> None:
    try:
        server.serve_host(listen_here(address, port))
    except OSError as failure:
        trouble = f"the host cannot ask at {address} port {port}: {failure.strerror}"
        _log.error(trouble)
        server.note(trouble)


async def _look_after(server: Server, path: str, stop: Callable[[], None]) -> None:
    """Try again what failed. With its socket gone (the run directory was removed) nobody could ever reach this
    process any more: it ends."""
    missing = 0
    while missing < PATIENCE:
        await asyncio.sleep(RETRY)
        await server.retry()
        missing = 0 if await asyncio.to_thread(os.path.lexists, path) else missing + 1
    _log.warning("%s is gone: nobody can reach this process", path)
    stop()


def _raise_file_limit() -> None:
    """Every sandbox holds two descriptors: use all that the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _BoundedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Writes to stderr; where that is a file (opened for appending), it is emptied when it grows large."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with suppress(OSError):
            if os.fstat(sys.stderr.fileno()).st_size > LOG_LIMIT:
                os.ftruncate(sys.stderr.fileno(), 0)
        super().emit(record)


if __name__ == "__main__":
    sys.exit(main())
