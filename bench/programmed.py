"""A thousand services with three backends each in the kernel, by the driver itself: what a change costs then."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from msgspec.structs import replace

from bench.figures import MS, Figure, Target, time_of
from bench.timing import Counts, Stopwatch
from sandnet.firewall.base import EndpointState, NetworkState
from sandnet.firewall.packet_filter import PacketFilter
from sandnet.kernel.linux.kernel import LinuxKernel
from sandnet.kernel.syscalls import restoring_namespace, unshare_network
from sandnet.kernel.workers import Workers
from sandnet.model import Attachment, BoundPort, Endpoint, Network, Phase, Subnet
from sandnet.model.network import NetworkOptions

BACKENDS = 3
PREFIX = IPv4Network("10.210.0.0/16")
FIRST_PORT = 10_000
CHANGE = Target(5)
"""Milliseconds for any change of a backend."""
TCP = 6


def changes(counts: Counts) -> list[Figure]:
    """Backends come, drain, return and go, each time at another service; in a network namespace of its own."""
    with restoring_namespace(), ExitStack() as undo:
        unshare_network()  # the workers are threads made from here on, and so are in it too
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        workers, kernel = Workers(), LinuxKernel("/nowhere")
        packet_filter = PacketFilter(kernel, workers)
        undo.callback(kernel.close)
        undo.callback(workers.close)
        return asyncio.run(_changes(packet_filter, counts))


async def _changes(packet_filter: PacketFilter, counts: Counts) -> list[Figure]:
    network = single_network()
    states = [service(network, number) for number in range(counts.many)]
    begun = time.perf_counter()
    await packet_filter.start(lambda _: [NetworkState(network, states)])
    started = time.perf_counter() - begun
    with _flow():
        watches = await _watched(packet_filter, states, min(counts.calls, counts.many))
    what = f"with {counts.many} services programmed, a backend"
    every = f"{counts.many} services with {BACKENDS} backends each programmed again"
    return [
        Figure(every, started * MS, "ms", "", Target(MS)),
        *(time_of(f"{what} {name}", watch.samples, CHANGE) for name, watch in watches.items()),
    ]


@contextmanager
def _flow() -> Iterator[None]:
    """Yield a tracked connection: with none the kernel has nothing to search when a backend is removed."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        yield


async def _watched(packet_filter: PacketFilter, states: Sequence[EndpointState], times: int) -> dict[str, Stopwatch]:
    """Return a fourth backend comes and goes, at services that are spread evenly over all."""
    watches = {name: Stopwatch() for name in ("attached", "drained", "undrained", "detached")}
    for turn in range(times):
        endpoint, three = states[turn * len(states) // times]
        fourth = _backend(endpoint, BACKENDS)
        after = ([*three, fourth], [*three, replace(fourth, drained=True)], [*three, fourth], three)
        for watch, backends in zip(watches.values(), after, strict=True):
            begun = time.perf_counter()
            await packet_filter.balance(endpoint, backends)
            watch.samples.append(time.perf_counter() - begun)
    return watches


def single_network() -> Network:
    """Return the network that all services are on."""
    gateway = IPv4Address(int(PREFIX.network_address) + 1)
    return Network(
        id="n" * 64,
        name="many",
        driver="bridge",
        phase=Phase.READY,
        sequence=1,
        created=0.0,
        options=NetworkOptions(),
        link="snb0",
        ipv4=Subnet(prefix=PREFIX, host_address=IPv4Interface(f"{gateway}/{PREFIX.prefixlen}"), gateway=gateway),
    )


def service(network: Network, number: int) -> EndpointState:
    """Return a service with a published port; its addresses are the next few of the network."""
    place = 256 + number * (BACKENDS + 1)
    endpoint = Endpoint(
        id=f"{number:064x}",
        name=f"service{number}",
        network_id=network.id,
        phase=Phase.READY,
        sequence=number,
        created=0.0,
        address=_address(place),
        mac=_mac(place),
        ports=(BoundPort(proto=TCP, port=80, host_ip=IPv4Address(0), host_port=FIRST_PORT + number),),
    )
    return EndpointState(endpoint, [_backend(endpoint, each) for each in range(BACKENDS)])


def _backend(endpoint: Endpoint, number: int) -> Attachment:
    """Return the first has the service's own address."""
    place = 256 + endpoint.sequence * (BACKENDS + 1) + number
    return Attachment(
        endpoint_id=endpoint.id,
        network_id=endpoint.network_id,
        container_id=f"{place:064x}",
        phase=Phase.READY,
        sequence=number,
        interface="eth0",
        host_link=f"snv{place:010x}",
        address=_address(place),
        mac=_mac(place),
        holder=number == 0,
        leased=number > 0,
    )


def _address(place: int) -> IPv4Interface:
    return IPv4Interface(f"{PREFIX.network_address + place}/{PREFIX.prefixlen}")


def _mac(place: int) -> str:
    digits = (PREFIX.network_address + place).packed
    return ":".join(["02", "42", *(f"{digit:02x}" for digit in digits)])


def note(figures: Sequence[Figure]) -> str:
    """Return a sentence for the report."""
    return (
        f"The {len(figures) - 1} changes with all services programmed are what the driver does in the kernel, without "
        f"the daemon around it. Each service has {BACKENDS} backends and a published port; one connection is tracked."
    )
