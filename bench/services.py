"""Services with several backends: what going through one costs, and what changing one costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from statistics import median

from bench import programmed
from bench.figures import Figure, Section, Target, ratio_of, time_of
from bench.host import stop
from bench.rest import JSON
from bench.sandnet_daemon import Daemon
from bench.throughput import Pair, stream, wait_for_listener
from bench.timing import Counts, Stopwatch

BACKENDS = 3
CLIENTS = 4
"""That take turns, so that not all streams go to the same backend."""
NETWORK = "services"
PLAIN = "10.211.0.10"
"""Address of the container that is reached directly."""
SPREAD, STICKY = "10.211.0.20", "10.211.0.21"
"""Addresses of the services: by flow, and by client (iperf3 opens two connections that belong together)."""


def measure(counts: Counts) -> Section:
    """Rates through a service beside a direct connection, then requests, then a thousand services."""
    with Daemon() as daemon:
        place = _Place(daemon)
        figures = [*_streams(place, counts), *_connections(place, counts), *_requests(daemon, counts)]
    changes = programmed.changes(counts)
    program = "iperf3" if shutil.which("iperf3") else "Python sockets, as iperf3 is not installed"
    note = (
        f"A service with {BACKENDS} backends is compared with a container without one on the same network, in "
        f"alternating runs of {counts.seconds} s. The ratios are the medians of the ratios of neighbouring runs. "
        f"Streams: {program}, affinity `client`, {CLIENTS} clients in turn. Connections: one Python process opens and "
        "resets them one after the other, another accepts them in all containers, affinity `flow`."
    )
    return Section("Services", (*figures, *changes), (note, programmed.note(changes)))


class _Place:
    """One network with the containers."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._network = daemon.network(NETWORK, subnet="10.211.0.0/16")
        self.plain = self._container("plain", address=PLAIN)
        self.clients = [self._container(f"client{number}") for number in range(CLIENTS)]
        self.spread = self._service("spread", SPREAD, "flow")
        self.sticky = self._service("sticky", STICKY, "client")

    def _container(self, name: str, **endpoint: JSON) -> str:
        return self._daemon.join(self._network, self._daemon.endpoint(self._network, name, **endpoint), f"{name:0<12}")

    def _service(self, name: str, address: str, affinity: str) -> tuple[str, ...]:
        service = publish(self._daemon, name, address=address, affinity=affinity)
        return tuple(attach(self._daemon, service, f"{name}{number:06d}") for number in range(BACKENDS))


def publish(daemon: Daemon, name: str, **more: JSON) -> str:
    """Publish a service; its id."""
    return str(daemon.rest.ask("POST", "/services", {"name": name, "network_name": NETWORK, **more}))


def attach(daemon: Daemon, service: str, container: str) -> str:
    """Attach a backend; the path of its namespace."""
    return str(daemon.rest.ask("POST", f"/services/{service}/backend", {"container_id": container}))


# Rates.


def _streams(place: _Place, counts: Counts) -> list[Figure]:
    plain, through = [], []
    for number in range(counts.streams):
        client = place.clients[number % CLIENTS]
        direct, balanced = Pair((place.plain,), client, PLAIN), Pair(place.sticky, client, STICKY)
        if number == 0:
            stream(direct, 1)
            stream(balanced, 1)
        plain.append(stream(direct, counts.seconds))
        through.append(stream(balanced, counts.seconds))
    return beside("throughput", "Gbit/s", plain, through, 0.95)


def _connections(place: _Place, counts: Counts) -> list[Figure]:
    command = [sys.executable, "-m", "bench.connections"]
    server = subprocess.Popen([*command, "serve", place.plain, *place.spread], stdout=subprocess.PIPE, text=True)

    def opened(address: str) -> float:
        client = ["nsenter", f"--net={place.clients[0]}", *command, "open", address, str(counts.seconds)]
        return float(subprocess.run(client, capture_output=True, text=True, check=True).stdout)

    try:
        wait_for_listener(server)
        opened(PLAIN), opened(SPREAD)
        rates = [(opened(PLAIN), opened(SPREAD)) for _ in range(counts.streams)]
    finally:
        stop(server)
    plain, through = zip(*rates, strict=True)
    return beside("new connections", "a second", list(plain), list(through), 0.93)


def beside(what: str, unit: str, plain: list[float], through: list[float], bound: float) -> list[Figure]:
    """Return the lines of a rate, and the median of the ratios of neighbouring runs."""
    ratios = [mine / other for mine, other in zip(through, plain, strict=True)]
    return [
        Figure(f"{what}, direct", median(plain), unit, _range(plain, ".1f")),
        Figure(f"{what}, {BACKENDS} backends", median(through), unit, _range(through, ".1f")),
        Figure(
            f"{what}, {BACKENDS} backends / direct",
            median(ratios),
            "×",
            _range(ratios, ".2f"),
            Target(bound, "at least"),
        ),
    ]


def _range(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}, n {len(values)}"


# Requests.


def _requests(daemon: Daemon, counts: Counts) -> list[Figure]:
    """Return a service is published, gets three backends, and loses them, one drained before."""
    watch = {name: Stopwatch() for name in ("first", "further", "drain", "detach", "last")}
    for number in range(counts.settles + 1):
        service = publish(daemon, f"service{number}")
        names = [f"r{number:04d}b{each:06d}" for each in range(BACKENDS)]
        path = f"/services/{service}/backend"
        watch["first"].time(attach, daemon, service, names[0])
        for name in names[1:]:
            watch["further"].time(attach, daemon, service, name)
        watch["drain"].time(daemon.rest.ask, "PATCH", f"{path}/{names[1]}", {"state": "drained"})
        for name in reversed(names[1:]):
            watch["detach"].time(daemon.rest.ask, "DELETE", f"{path}/{name}")
        watch["last"].time(daemon.rest.ask, "DELETE", f"{path}/{names[0]}")
        daemon.rest.ask("DELETE", f"/services/{service}")
        if number == 0:
            for each in watch.values():
                each.samples.clear()
    return [
        time_of("first backend attached, answered", watch["first"].samples, Target(2.5)),
        time_of("further backend attached, answered", watch["further"].samples, Target(3.5)),
        ratio_of("further / first", watch["further"].samples, watch["first"].samples),
        time_of("backend drained, answered", watch["drain"].samples),
        time_of("one of several backends detached, answered", watch["detach"].samples, Target(3.5)),
        time_of("last backend detached, answered", watch["last"].samples),
    ]
