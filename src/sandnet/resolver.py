"""The program of the resolver process: ``python -m sandnet.resolver --run-dir DIR --listener FD``.

It answers DNS questions in all sandboxes, also while the daemon is down. It exits on SIGTERM or when the daemon
requests it. It receives all names from the daemon over ``<run-dir>/dns.sock``, and stores nothing on disk.

It starts as the daemon's user, inherits the control socket, and then drops all privileges and the system calls that it
does not need. The daemon opens its sockets in sandboxes and passes them to it.
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
from ipaddress import ip_address
from typing import Final

import uvloop

from sandnet.dns.server.control import Control
from sandnet.dns.server.forwarder import DEADLINE, OWN, PORT, Upstream
from sandnet.dns.server.host_nameservers import HostNameservers
from sandnet.dns.server.query_handler import QueryHandler
from sandnet.dns.server.resolver import Resolver
from sandnet.dns.takeover import BACKLOG
from sandnet.kernel.capabilities import drop_privileges, raise_oom_score
from sandnet.kernel.linux.namespace_sockets import disconnect
from sandnet.kernel.syscall_filter import load_filter
from sandnet.logs import RESOLVER, FileHandler, configure
from sandnet.model import name_server
from sandnet.model.address import Address

_log = logging.getLogger(__name__)

Endpoint = tuple[Address, int]

PARENT_CHECK_INTERVAL: Final = 5.0
"""Seconds between two checks whether the control socket still exists."""
USER: Final = "sandnet-resolver"
"""User of the process (systemd/sandnet.sysusers)."""
FALLBACK: Final = 65523
"""Id of user and group where that user does not exist. Debian reserves 65000 to 65533 (policy, 9.2.2), and systemd
assigns none of 65520 to 65533, so no other program has it. It is below 65536, so that it exists in most containers.
User 65534 (``nobody``) is shared with other programs, which could send it signals."""
PRIORITY: Final = -10
"""Priority of the process (setpriority(2)): if a sandbox floods the resolver and uses the CPU as well, the other
sandboxes depend on it."""
YOUNG: Final = (500, 1, 2000)
"""Thresholds of the garbage collector (``gc.set_threshold``). A finished question leaves no cycles, so collections find
little, but each takes up to 1 us for an object. Usual collections examine at most 1,500 objects; full ones are rare."""
_READY: Final = b"\0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program, and return its exit code."""
    options = _parser().parse_args(arguments)
    return _in_background(options) if options.detach else _run(options, lambda: None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandnet.resolver", description="Answers names in sandboxes.")
    parser.add_argument(
        "--run-dir", required=True, help="directory of the socket dns.sock, to say which resolver this is"
    )
    parser.add_argument(
        "--listener", type=int, required=True, help="descriptor of the socket at which the daemon calls"
    )
    parser.add_argument("--host-listen", type=_endpoint, help="ADDR:PORT at which the host itself may ask")
    parser.add_argument("--outstanding", type=int, default=OWN, help="questions a sandbox may have under way")
    parser.add_argument("--release", required=True, help="the release that this process reports")
    parser.add_argument("--detach", action="store_true", help="go to the background, and return once it serves")
    return parser


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    if not 0 < int(port) < 65536:
        raise ValueError(text)
    return ip_address(host.strip("[]")), int(port)


def _in_background(options: argparse.Namespace) -> int:
    """Serve in a child process, which outlives this one; return 0 when it serves, 1 when it failed."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return 0 if os.read(reader, 1) == _READY else 1
    os.close(reader)
    os.chdir("/")

    def notify_parent() -> None:
        os.write(writer, _READY)
        os.close(writer)

    return _run(options, notify_parent)


def _run(options: argparse.Namespace, ready: Callable[[], None]) -> int:
    configure("info", RESOLVER, FileHandler())
    _raise_file_limit()
    with suppress(OSError):  # a service manager may forbid it
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    raise_oom_score()
    listener = socket.socket(fileno=options.listener)
    listener.set_inheritable(False)
    listener.listen(BACKLOG)  # makes this process the peer of new connections
    control_path = os.open(listener.getsockname(), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    owner = os.geteuid()
    "localhost".encode("idna")  # loads the codec while its file can be read
    user = drop_privileges(USER, FALLBACK)
    problem = load_filter()
    if problem:
        _log.warning("%s", problem)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _log.info("serving %s, release %s, process %d, user %d", options.run_dir, options.release, os.getpid(), user)
        runner.run(_serve(options, listener, control_path, owner, problem, ready))
    return 0


async def _serve(
    options: argparse.Namespace,
    listener: socket.socket,
    control_path: int,
    owner: int,
    problem: str,
    ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[bool] = loop.create_future()
    server = _assembled(options, problem)

    def stop(drain: bool) -> None:
        if not ending.done():
            ending.set_result(drain)

    async def complete() -> None:
        gc.freeze()  # a full collection over the names of 1,000 sandboxes takes 20 ms, and they contain no cycles

    gc.set_threshold(*YOUNG)
    gc.freeze()  # a full collection over the modules takes 13 ms
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, False)
    control = Control(server, options.release, owner, complete, stop)
    control.listen(listener)
    watching = loop.create_task(_watch(control_path, lambda: stop(False)))
    ready()
    if await ending:
        with suppress(TimeoutError):
            await asyncio.wait_for(server.drain(), DEADLINE)
    watching.cancel()
    loop.remove_reader(listener.fileno())
    listener.close()
    server.close()
    control.close()
    _log.info("process %d ends", os.getpid())


def _assembled(options: argparse.Namespace, problem: str) -> Resolver:
    own = {name_server.ADDRESS}
    if options.host_listen and options.host_listen[1] == PORT:
        own.add(options.host_listen[0])
    answers = QueryHandler(Upstream(own_limit=options.outstanding), HostNameservers(), own=own)
    problems = (problem,) if problem else ()
    return Resolver(answers, host=options.host_listen is not None, disconnect=disconnect, problems=problems)


async def _watch(control_path: int, stop: Callable[[], None]) -> None:
    """Stop the process when the control socket was removed: no daemon can connect to this process any more.

    The descriptor shows the removal without any permission for the directory.
    """
    while os.fstat(control_path).st_nlink:  # noqa: ASYNC110 - there is no event for a removal
        await asyncio.sleep(PARENT_CHECK_INTERVAL)
    _log.warning("the socket was removed: no daemon can reach this process")
    stop()


def _raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit: every sandbox needs two descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
