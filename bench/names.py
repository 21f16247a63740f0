"""The resolver: questions a second beside Docker's, and what a thousand sandboxes cost it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from bench import echo
from bench.figures import MS, Figure, Section, Target, percentile, time_of
from bench.host import Namespace, resident, stop, wait_until
from bench.peers import docker
from bench.sandnet_daemon import Daemon
from bench.timing import Counts
from sandnet.composition import name_client
from sandnet.config import Config
from sandnet.dns.base import SetClient, SetNames
from sandnet.dns.client import NameClient
from sandnet.dns.client_connection import ControlConnection
from sandnet.dns.control_protocol import SOCKET
from sandnet.dns.server.forwarder import PORT
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.syscalls import in_namespace, opened_namespace
from sandnet.model import name_server

SERVER = str(name_server.ADDRESS)

TITLE = "Names"
OURS = "sandnet"
ASKED = tuple(f"name{number:02d}" for number in range(20))
"""All of one endpoint: its aliases, so that Docker can have the same."""
ECHO = "a bare echo"
START = 10.0
"""Seconds until a small program is ready."""
NETWORK = "n" * 64
"""Id of the network that a thousand sandboxes share."""
FIRST_ADDRESS = IPv4Address("10.192.0.2")
REGISTERED_AT_ONCE = 50
"""Sandboxes in a change: what the resolver has not confirmed in a second, the client no longer waits for."""
WAIT = 2.0
"""Seconds for an answer."""


def measure(counts: Counts) -> Section:
    """Dnsperf where there is one; then many sandboxes, registered with a resolver without a daemon."""
    figures: list[Figure] = []
    notes = [
        f"Memory, sockets and publishing: {counts.sandboxes} namespaces and as many names on one network that all "
        "of them are on. The daemon's own client of the resolver registered them. After each publishing the benchmark "
        "queried the resolver of one sandbox, another each time, for the new name over UDP, and it had to answer."
    ]
    if shutil.which("dnsperf"):
        answered, note = _asked(counts)
        figures += answered
        notes.insert(0, note)
    else:
        notes.insert(0, "Questions a second were not measured: dnsperf is not installed (Debian package dnsperf).")
    figures += asyncio.run(_many(counts))
    return Section(TITLE, tuple(figures), tuple(notes))


# Questions a second.


def _asked(counts: Counts) -> tuple[list[Figure], str]:
    why = docker.missing()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandnet-bench-names-")))
        (directory / "questions").write_text("".join(f"{name} A\n" for name in ASKED))
        places = {OURS: _sandbox(stack.enter_context(Daemon()))}
        if not why:
            peer = stack.enter_context(docker.Docker())
            places[peer.name] = peer.known_as(ASKED)
        places[ECHO] = stack.enter_context(_echo(directory))
        rates = _in_turn(places, counts, lambda name: rate_in(_dnsperf(places[name], directory, counts.seconds)))
        halves = {name: str(int(median(seen) / 2)) for name, seen in rates.items()}
        tails = _in_turn(
            places,
            counts,
            lambda name: percentile(
                latencies_in(_dnsperf(places[name], directory, counts.seconds, "-v", "-Q", halves[name])), 99
            ),
        )
    figures = [*_compared(rates), *(_tail(name, halves[name], seen) for name, seen in tails.items())]
    note = (
        f"dnsperf inside the sandbox queries {SERVER} for {len(ASKED)} local names over UDP, A records, with "
        f"at most 100 questions outstanding, in alternating runs of {counts.seconds} s. The latency is dnsperf's, the "
        f"median of the runs' 99th percentiles. {ECHO.capitalize()} answers without a lookup, and shows what the "
        "machine itself takes."
    )
    return figures, note + (f" Docker's resolver was not measured: {why}." if why else "")


def _in_turn(names: Iterable[str], counts: Counts, run: Callable[[str], float]) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(counts.streams):
        for name, values in seen.items():
            values.append(run(name))
    return seen


@contextmanager
def _echo(directory: Path) -> Iterator[str]:
    """Yield a namespace with the echo in it; its path."""
    namespace, log = Namespace(), directory / "echo"
    process = namespace.start([sys.executable, "-m", "bench.echo", SERVER, str(PORT)], log)
    try:
        wait_until(lambda: echo.LISTENING in log.read_text(), START, "the echo does not listen")
        yield namespace.path
    finally:
        stop(process)
        namespace.close()


def _sandbox(daemon: Daemon) -> str:
    network = daemon.network("names", subnet="10.209.0.0/24")
    return daemon.join(network, daemon.endpoint(network, "named", aliases=list(ASKED)), "named" + "0" * 7)


def _dnsperf(place: str, directory: Path, seconds: int, *more: str) -> str:
    """Return its output; to a file, so that no reader takes part of the processor in the meantime."""
    out = directory / "out"
    command = ["nsenter", f"--net={place}", "dnsperf", "-s", SERVER, "-d", str(directory / "questions")]
    with out.open("w") as file:
        subprocess.run([*command, "-l", str(seconds), *more], stdout=file, stderr=file, check=True)
    return out.read_text()


def rate_in(output: str) -> float:
    """Return the questions a second, from the end of dnsperf's output.

    Raises:
        RuntimeError: some were lost or not answered with records.
    """
    codes = re.search(r"Response codes: +NOERROR \d+ \(100\.00%\)$", output, re.MULTILINE)
    sizes = re.search(r"request (\d+), response (\d+)", output)
    rate = re.search(r"Queries per second: +([\d.]+)", output)
    if not (codes and sizes and rate and int(sizes[2]) > int(sizes[1]) and re.search(r"Queries lost: +0 ", output)):
        raise RuntimeError(f"not all questions were answered:\n{output[-2000:]}")
    return float(rate[1])


def latencies_in(output: str) -> list[float]:
    """Return the seconds of each answer, from dnsperf's verbose output.

    Raises:
        RuntimeError: as :func:`rate_in`.
    """
    rate_in(output)
    return [float(line.rpartition(" ")[2]) for line in output.splitlines() if line.startswith("> NOERROR ")]


def _compared(rates: dict[str, list[float]]) -> list[Figure]:
    figures = []
    for name, seen in rates.items():
        detail = f"{min(seen):.0f} to {max(seen):.0f}, n {len(seen)}"
        figures.append(Figure(f"local names, {name}", median(seen), "questions/s", detail))
    for name, seen in rates.items():
        if name not in (OURS, ECHO):
            ratios = [mine / other for mine, other in zip(rates[OURS], seen, strict=True)]
            detail = f"pairs {min(ratios):.2f} to {max(ratios):.2f}"
            figures.append(Figure(f"{OURS} / {name}", median(ratios), "×", detail, Target(1.5, "at least")))
    return figures


def _tail(name: str, half: str, seen: Sequence[float]) -> Figure:
    detail = f"{half} questions/s, {min(seen) * MS:.2f} to {max(seen) * MS:.2f}, n {len(seen)}"
    return Figure(
        f"p99 at half of its load, {name}", median(seen) * MS, "ms", detail, Target(1) if name == OURS else None
    )


# A thousand sandboxes.


async def _many(counts: Counts) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="sandnet-bench-names-", dir="/var/tmp") as directory:
        config = Config(run_dir=f"{directory}/run", sandbox_dir=f"{directory}/sandboxes")
        os.mkdir(config.run_dir, 0o700)
        async with _resolver(config) as client, _sandboxes(config, counts.sandboxes) as sandboxes:
            pid = await _pid(config)
            idle, bare = resident(pid), _sockets(pid)
            begun = time.perf_counter()
            for at in range(0, len(sandboxes), REGISTERED_AT_ONCE):
                await client.apply(*sandboxes[at : at + REGISTERED_AT_ONCE])
            registering = time.perf_counter() - begun
            await client.apply(*map(_name, range(len(sandboxes))))
            await _complete(client, len(sandboxes))
            full, sockets = resident(pid), (_sockets(pid) - bare) / len(sandboxes)
            published = await _published(client, sandboxes, counts.calls)
            later = resident(pid)
    number = len(sandboxes)
    return [
        Figure(
            f"{number} sandboxes registered with the resolver", registering * MS, "ms", f"{REGISTERED_AT_ONCE} at once"
        ),
        Figure("sockets for each sandbox", sockets, "sockets", "", Target(2)),
        Figure(f"resolver's memory with {number} sandboxes and names", full, "MiB", f"idle {idle:.0f}", Target(150)),
        time_of(f"a name published to {number} sandboxes", published, Target(50)),
        Figure("resolver's memory after that", later, "MiB", f"{len(published)} more names", Target(150)),
    ]


@asynccontextmanager
async def _resolver(config: Config) -> AsyncIterator[NameClient]:
    client = name_client(config)
    client.open()
    try:
        await client.replace(())
        await _complete(client, 0)
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def _sandboxes(config: Config, number: int) -> AsyncIterator[Sequence[SetClient]]:
    namespaces = LinuxNamespaces(config.sandbox_dir)
    keys = [f"{config.sandbox_dir}/sandbox{each:04d}" for each in range(number)]
    try:
        yield [
            SetClient(container_id=f"{each:064x}", key=key, inode=namespaces.make(key).inode, networks=(NETWORK,))
            for each, key in enumerate(keys)
        ]
    finally:
        for key in keys:
            namespaces.release(key)


async def _complete(client: NameClient, sandboxes: int) -> None:
    """Make sure that the resolver is in order and serves so many.

    Raises:
        RuntimeError: it does not.
    """
    for _ in range(100):
        problem = client.problem()
        if not problem and (await client.stats()).askers == sandboxes:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the resolver does not serve {sandboxes} sandboxes: {problem}")


async def _pid(config: Config) -> int:
    link = await ControlConnection.open(f"{config.run_dir}/{SOCKET}")
    link.close()
    return link.pid


def _sockets(pid: int) -> int:
    return sum(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())


def _name(number: int) -> SetNames:
    address = FIRST_ADDRESS + number
    return SetNames(
        network_id=NETWORK, network="net", owner=f"{number:064x}", names=(f"endpoint{number}",), addresses=(address,)
    )


async def _published(client: NameClient, sandboxes: Sequence[SetClient], times: int) -> list[float]:
    took = []
    for number in range(len(sandboxes), len(sandboxes) + times):
        name = _name(number)
        begun = time.perf_counter()
        await client.apply(name)
        took.append(time.perf_counter() - begun)
        sandbox = sandboxes[number * 7919 % len(sandboxes)]
        if address_of(sandbox.key, name.names[0]) != name.addresses[0]:
            raise RuntimeError(f"{name.names[0]} is not known in {sandbox.key} after it was published")
    return took


def address_of(key: str, name: str) -> IPv4Address:
    """Return the address with which the answer to an A question ends, asked from inside the namespace."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with opened_namespace(key) as namespace, in_namespace(namespace):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(WAIT)
        asking.connect((SERVER, PORT))
        asking.send(question)
        return IPv4Address(asking.recv(512)[-4:])
