"""The daemon is killed and started, and stopped and started, under a thousand sandboxes and traffic."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.figures import MS, Figure, Section, Target
from bench.host import Namespace, stop
from bench.sandnet_daemon import Daemon
from bench.throughput import wait_for_listener
from bench.timing import Counts
from sandnet.dns.server.forwarder import PORT as NAMES
from sandnet.model import name_server

SERVER = str(name_server.ADDRESS)

Plan = Any
"""Messages to and from the flows: JSON."""
NETWORK = "restart"
SERVED = "10.212.255.10"
"""Address of the container that is reached directly and through published ports."""
BALANCED = "10.212.255.20"
"""Address of a service with several backends."""
BACKENDS = 3
SERVICES = 4
OUTSIDE, UPLINK = "198.51.100.2", "198.51.100.1"
TCP, UDP = 6, 17
PORT = 7000
PUBLISHED, PUBLISHED_SERVICE, FIRST_OTHER = 8000, 8001, 10000
"""Host ports."""
PACKETS = 2000
"""A second, of each flow of datagrams."""
PORTS = 8
"""Of the client, where packets are spread over backends."""
BYTES = 20_000_000
"""A second, of each TCP transfer: far from what it could be, so that what is lost is lost by a restart."""
QUESTIONS = 100
"""A second."""
AROUND = 1.5
"""Seconds of traffic before and after."""
READY_WITHIN = 3000.0
"""Milliseconds."""
END = 30.0
"""Seconds a process of the flows may take to report what it saw."""


def measure(counts: Counts) -> Section:
    """Traffic while nothing happens, while the daemon is killed and started, and while it is stopped and started."""
    with Daemon() as daemon:
        scene = Scene(daemon, counts.many)
        try:
            calm = scene.during(lambda: time.sleep(AROUND))
            killed = scene.during(lambda: daemon.restart(killed=True))
            stopped = scene.during(lambda: daemon.restart())
        finally:
            scene.close()
    figures = [*_figures_of("nothing happens", calm), *_figures_of("killed", killed), *_figures_of("stopped", stopped)]
    note = (
        f"{counts.many} sandboxes on one network, a tenth of them with a published port, {SERVICES} services with "
        f"{BACKENDS} backends each. Packets: {PACKETS} a second each directly between two of them, from outside "
        "through a published port, to a service, and from outside to a published service, all numbered. TCP: "
        f"{BYTES // 1_000_000} MB/s each directly, through a published port, and to a service. A sender whose receiver "
        "waits for a processor sends segments again that have already arrived. The receiver reports this (DSACK), and "
        f"they do not count as lost. Questions: {QUESTIONS} a second from a sandbox to its resolver. A pause is the "
        'longest time between two arrivals. Waiting for a processor makes it longer too, as "nothing happens" shows.'
    )
    return Section("A restart under traffic", tuple(figures), (note,))


class Seen(NamedTuple):
    """What became of the traffic of one round."""

    took: float | None
    """Seconds until the daemon answered."""
    packets: int
    lost: int
    again: int
    """TCP segments sent more than once."""
    missed: int
    """Those of them that the receiver had not got."""
    pause: float
    """The longest of a TCP transfer, in seconds."""
    questions: int
    unanswered: int
    slowest: float
    """Seconds to an answer."""


class Scene:
    """The sandboxes, and a machine outside."""

    def __init__(self, daemon: Daemon, many: int) -> None:
        self._daemon = daemon
        self._outside = Namespace()
        self._connect_outside()
        self._network = daemon.network(NETWORK, subnet="10.212.0.0/16")
        self._web = self._sandbox("web", address=SERVED, port_mapping=_published(PUBLISHED))
        self._client = self._sandbox("client")
        self._backends = self._services()
        for number in range(many - 2 - SERVICES * BACKENDS):
            ports = _published(FIRST_OTHER + number) if number % 10 == 0 else []
            self._sandbox(f"e{number}", port_mapping=ports)

    def during(self, event: Callable[[], float | None]) -> Seen:
        """Traffic before, during and after something.

        Raises:
            RuntimeError: a flow did not flow at all.
        """
        sinks = _start("sinks", self._sinks())
        sources = _start("sources", self._sources())
        try:
            time.sleep(AROUND)
            took = event()
            time.sleep(AROUND)
            sent = _end(sources)
            came = _end(sinks)
        finally:
            stop(sources)
            stop(sinks)
        return seen(took, sent, came)

    def close(self) -> None:
        """Release the machine outside."""
        self._outside.close()

    def _connect_outside(self) -> None:
        host, outside = self._daemon.host, self._outside
        host.run(["ip", "link", "add", "uplink", "up", "type", "veth", "peer", "name", "eth0", "netns", outside.path])
        host.run(["ip", "address", "add", f"{UPLINK}/24", "dev", "uplink"])
        outside.run(["ip", "address", "add", f"{OUTSIDE}/24", "dev", "eth0"])
        outside.run(["ip", "link", "set", "eth0", "up"])

    def _sandbox(self, name: str, **endpoint: Any) -> str:
        return self._daemon.join(self._network, self._daemon.endpoint(self._network, name, **endpoint), f"{name:0<12}")

    def _services(self) -> list[str]:
        """All of them; the namespaces of the backends of the first, which is published."""
        first = self._service("service0", address=BALANCED, port_mapping=_published(PUBLISHED_SERVICE))
        for number in range(1, SERVICES):
            self._service(f"service{number}")
        return first

    def _service(self, name: str, **more: Any) -> list[str]:
        request = {"name": name, "network_name": NETWORK, **more}
        path = f"/services/{self._daemon.rest.ask('POST', '/services', request)}/backend"
        names = [f"{name}b{each:04d}" for each in range(BACKENDS)]
        return [str(self._daemon.rest.ask("POST", path, {"container_id": each})) for each in names]

    def _sinks(self) -> list[Plan]:
        """Return what comes through a published port has a port of its own."""
        direct, published = {"port": PORT}, {"port": PORT + 1}
        return [
            {"flow": "udp direct", "kind": "udp", "path": self._web, **direct},
            {"flow": "tcp direct", "kind": "tcp", "path": self._web, **direct},
            {"flow": "udp published", "kind": "udp", "path": self._web, **published},
            {"flow": "tcp published", "kind": "tcp", "path": self._web, **published},
            *({"flow": "udp service", "kind": "udp", "path": path, **direct} for path in self._backends),
            *({"flow": "tcp service", "kind": "tcp", "path": path, **direct} for path in self._backends),
            *({"flow": "udp published service", "kind": "udp", "path": path, **published} for path in self._backends),
        ]

    def _sources(self) -> list[Plan]:
        inside, outside = {"path": self._client}, {"path": self._outside.path}
        packets, stream = {"kind": "udp", "rate": PACKETS, "ports": 1}, {"kind": "tcp", "rate": BYTES}
        web, service = {"address": SERVED, "port": PORT}, {"address": BALANCED, "port": PORT}
        host = {"address": UPLINK, "port": PUBLISHED}
        return [
            {"flow": "udp direct", **packets, **inside, **web},
            {"flow": "tcp direct", **stream, **inside, **web},
            {"flow": "udp published", **packets, **outside, **host},
            {"flow": "tcp published", **stream, **outside, **host},
            {"flow": "udp service", **packets, "ports": PORTS, **inside, **service},
            {"flow": "tcp service", **stream, **inside, **service},
            {"flow": "udp published service", **packets, "ports": PORTS, **outside, **host, "port": PUBLISHED_SERVICE},
            {"flow": "names", "kind": "names", "rate": QUESTIONS, **inside, "address": SERVER, "port": NAMES,
             "name": "web"},
        ]  # fmt: skip


def _published(host_port: int) -> list[Plan]:
    return [{"proto": proto, "port": PORT + 1, "host_port": host_port} for proto in (TCP, UDP)]


def _start(side: str, plan: list[Plan]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-m", "bench.flows", side], stdin=pipe, stdout=pipe, text=True)
    assert process.stdin  # noqa: S101 - asked for above
    process.stdin.write(json.dumps(plan) + "\n")
    process.stdin.flush()
    wait_for_listener(process)
    return process


def _end(process: subprocess.Popen[str]) -> Plan:
    output, _ = process.communicate(timeout=END)
    return json.loads(output)


def seen(took: float | None, sent: Plan, came: Plan) -> Seen:
    """Return what became of the traffic, by what both ends say.

    Raises:
        RuntimeError: nothing of a flow arrived.
    """
    names = sent.pop("names")
    lost = again = missed = packets = 0
    for flow, here in sent.items():
        there = came.get(flow, {})
        if not (there.get("packets") or there.get("bytes")):
            raise RuntimeError(f"nothing arrived of {flow}")
        again += here.get("again", 0)
        missed += max(here.get("again", 0) - here.get("needless", 0), 0)
        packets += here.get("packets", 0)
        lost += here.get("packets", 0) - there["packets"]
    pause = max(there["pause"] for flow, there in came.items() if flow.startswith("tcp"))
    return Seen(took, packets, lost, again, missed, pause, names["packets"], names["unanswered"], names["pause"])


def _figures_of(when: str, seen: Seen) -> list[Figure]:
    none = Target(0)
    ready = (
        []
        if seen.took is None
        else [Figure(f"{when}: until it answers", seen.took * MS, "ms", "", Target(READY_WITHIN))]
    )
    return [
        *ready,
        Figure(f"{when}: packets lost", seen.lost, "", f"of {seen.packets}", none),
        Figure(
            f"{when}: TCP segments lost",
            seen.missed,
            "",
            f"{seen.again} sent again; longest pause {seen.pause * MS:.0f} ms",
            none,
        ),
        Figure(
            f"{when}: questions not answered",
            seen.unanswered,
            "",
            f"of {seen.questions}, slowest {seen.slowest * MS:.0f} ms",
            none,
        ),
    ]
