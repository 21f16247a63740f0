"""A thousand of everything: what the last one costs, what listing, memory and a restart come to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from bench.figures import MS, Figure, Section, Target, growth_of, time_of
from bench.floor import Floor
from bench.host import resident
from bench.sandnet_daemon import Daemon
from bench.timing import Counts, Stopwatch

GROWTH = Target(1.1)


def measure(counts: Counts) -> Section:
    """Networks, endpoints, a restart with all of those, published ports.

    The floor's host with the attaches stays to the end, and its bridges come last: when a host goes, the kernel
    takes its links away under a lock that everybody needs, a thousand bridges for half a minute.
    """
    with closing(Floor()) as floor, Daemon() as daemon:
        attaches = _samples(floor.attach, counts)
        daemon.rest.ask("GET", "/networks")
        idle = Figure("daemon's memory, idle", resident(daemon.pid), "MiB", "", Target(80))
        figures = [idle, *_networks(daemon, counts), *_endpoints(daemon, attaches, counts)]
        figures += [*_restart(daemon, counts), *_ports(daemon, counts)]
    with closing(Floor()) as floor:
        bridges = _samples(floor.network, counts)
    figures.append(growth_of("the kernel's own growth for networks", bridges, counts.window))
    note = (
        f"The last {counts.window} of {counts.many} are compared with the first {counts.window} after "
        f"{counts.warm_up} to warm up. The kernel's own growth is that of the floor, measured without the daemon at "
        "work."
    )
    return Section(f"{counts.many} of everything", tuple(figures), (note,))


def _samples(verb: Callable[[int], None], counts: Counts) -> list[float]:
    watch = Stopwatch()
    for number in range(counts.warm_up + counts.many):
        watch.time(verb, number)
    return watch.samples[counts.warm_up :]


def _networks(daemon: Daemon, counts: Counts) -> list[Figure]:
    create, listing = Stopwatch(), Stopwatch()
    for number in range(counts.warm_up):
        daemon.network(f"warm{number}")
    networks = [create.time(daemon.network, f"n{number}") for number in range(counts.many)]
    for _ in range(counts.calls):
        listing.time(daemon.rest.ask, "GET", "/networks")
    for network in networks:
        daemon.delete_network(network)
    daemon.until_links(daemon.bare_links + counts.warm_up)
    return [
        growth_of(f"network number {counts.many} / first", create.samples, counts.window, GROWTH),
        time_of(f"list of {counts.many} networks", listing.samples, Target(30)),
    ]


def _endpoints(daemon: Daemon, attaches: list[float], counts: Counts) -> list[Figure]:
    """Return a bridge takes 1,023 ports, so the thousand and the warm-up have a network each."""
    create, join = Stopwatch(), Stopwatch()
    network, warm = daemon.network("many", subnet="10.202.0.0/16"), daemon.network("warm", subnet="10.203.0.0/16")
    for number in range(counts.warm_up):
        daemon.join(warm, daemon.endpoint(warm, f"w{number}"), f"w{number:06d}")
    for number in range(counts.many):
        endpoint = create.time(daemon.endpoint, network, f"e{number}")
        join.time(daemon.join, network, endpoint, f"c{number:06d}")
    return [
        growth_of(f"endpoint create, number {counts.many} / first", create.samples, counts.window, GROWTH),
        growth_of(f"join, number {counts.many} / first", join.samples, counts.window, GROWTH),
        growth_of("the kernel's own growth for joins", attaches, counts.window),
        Figure(f"daemon's memory with {counts.many} endpoints", resident(daemon.pid), "MiB", "", Target(150)),
    ]


def _restart(daemon: Daemon, counts: Counts) -> list[Figure]:
    stopped = daemon.stop()
    started = daemon.start()
    return [
        Figure("stop of the daemon with them", stopped * MS, "ms"),
        Figure(
            f"start with {counts.many} endpoints, until it answers",
            started * MS,
            "ms",
            f"bare {daemon.started * MS:.0f}",
        ),
        Figure("daemon's memory after that", resident(daemon.pid), "MiB", "", Target(150)),
    ]


def _ports(daemon: Daemon, counts: Counts) -> list[Figure]:
    publish = Stopwatch()
    network = daemon.network("ports", subnet="10.204.0.0/16")
    for number in range(counts.warm_up + counts.many):
        if number == counts.warm_up:
            publish.samples.clear()
        mapping = {"proto": 6, "port": 80, "host_port": 10000 + number}
        publish.time(daemon.endpoint, network, f"p{number}", port_mapping=[mapping])
    return [
        time_of("endpoint create with a published port", publish.samples),
        growth_of(f"published port number {counts.many} / first", publish.samples, counts.window, GROWTH),
    ]
