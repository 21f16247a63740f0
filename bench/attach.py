"""Networks, endpoints, joins and leaves, one after the other, beside the kernel's floor."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from statistics import median

from bench.figures import MS, Figure, Section, Target, percentile, ratio_of, time_of, worst_of
from bench.floor import Floor
from bench.proof import Started, foreign_tables
from bench.sandnet_daemon import Daemon
from bench.timing import Counts, Stopwatch

SUBNET = "10.200.0.0/16"
_ALL = "daemon, resolver and preparer"
REFILL = 0.02
"""Seconds between two joins, in which the pool of prepared sandboxes is filled up."""


def measure(counts: Counts) -> Section:
    """Every verb in a row, then single ones with the kernel watched."""
    with Daemon() as daemon, closing(Floor()) as floor:
        started = Started(daemon.pid)
        figures = [
            *_joins_and_leaves(daemon, floor, counts),
            *_joins_without_pool(floor, counts),
            _create_among(daemon, counts),
            *_networks(daemon, floor, counts),
            *_clean_after(daemon, counts),
        ]
        notes = (started.summary(), foreign_tables(daemon))
    return Section("One after the other", tuple(figures), notes)


def _joins_and_leaves(daemon: Daemon, floor: Floor, counts: Counts) -> list[Figure]:
    watch = {name: Stopwatch() for name in ("read", "endpoint", "floor", "sync", "join", "leave", "delete")}
    network = daemon.network("joins", subnet=SUBNET)
    probe = os.open(daemon.directory / "probe", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    endpoints = []
    for number in range(counts.calls + counts.warm_up):
        if number == counts.warm_up:
            watch["endpoint"].samples.clear()
        endpoints.append(watch["endpoint"].time(daemon.endpoint, network, f"e{number}"))
        watch["read"].time(daemon.rest.ask, "GET", f"/networks/{network}/endpoints/{endpoints[-1]}")
    daemon.until_prepared()
    used = daemon.processor_time()
    for number, endpoint in enumerate(endpoints):
        if number == counts.warm_up:
            watch["floor"].samples.clear()
            watch["sync"].samples.clear()
            watch["join"].samples.clear()
        watch["floor"].time(floor.attach, number)
        watch["sync"].time(durable_write, probe)
        time.sleep(REFILL)
        watch["join"].time(daemon.join, network, endpoint, f"c{number:06d}")
    for number, endpoint in enumerate(endpoints):
        watch["leave"].time(daemon.leave, network, endpoint, f"c{number:06d}")
    used = daemon.processor_time() - used
    os.close(probe)
    links_gone = daemon.until_links(daemon.bare_links + 1)
    for endpoint in endpoints:
        watch["delete"].time(daemon.delete_endpoint, network, endpoint)
    daemon.delete_network(network)
    join, floors = watch["join"].samples, watch["floor"].samples
    return [
        time_of("a request that only reads", watch["read"].samples),
        time_of("kernel floor of an attach", floors),
        time_of("durable write of 4 KiB to this file system", watch["sync"].samples),
        time_of("join of a new container, pool warm", join),
        ratio_of("join, pool warm / floor", join, floors, Target(1)),
        _tail("join, pool warm: 99th percentile / median", join, Target(3)),
        Figure("processor time of a join and leave", used / len(endpoints) * MS, "ms", _ALL, Target(3.5)),
        time_of("endpoint create", watch["endpoint"].samples, Target(1)),
        time_of("leave, answered", watch["leave"].samples, Target(1.5)),
        Figure(f"kernel cleaned up after {len(endpoints)} leaves in a row", links_gone * MS, "ms"),
        time_of("endpoint delete, answered", watch["delete"].samples, Target(0.9)),
    ]


def _tail(what: str, samples: Sequence[float], target: Target) -> Figure:
    middle, tail = median(samples) * MS, percentile(samples, 99) * MS
    return Figure(what, tail / middle, "×", f"{tail:.2f} / {middle:.2f} ms", target)


def _joins_without_pool(floor: Floor, counts: Counts) -> list[Figure]:
    """Measure joins for which everything is made when it is requested."""
    join, floors = Stopwatch(), Stopwatch()
    with Daemon(prepared=0) as daemon:
        network = daemon.network("joins", subnet=SUBNET)
        endpoints = [daemon.endpoint(network, f"e{number}") for number in range(counts.calls)]
        for number, endpoint in enumerate(endpoints):
            floors.time(floor.attach, counts.warm_up + counts.calls + number)
            join.time(daemon.join, network, endpoint, f"c{number:06d}")
        for number, endpoint in enumerate(endpoints):
            daemon.leave(network, endpoint, f"c{number:06d}")
    return [
        time_of("join of a new container, pool empty", join.samples),
        ratio_of("join, pool empty / floor", join.samples, floors.samples, Target(2.2)),
    ]


def durable_write(file: int) -> None:
    """Write a page in place and wait until it is safe: the disk's part of one commit."""
    os.pwrite(file, os.urandom(4096), 0)
    os.fdatasync(file)


def _create_among(daemon: Daemon, counts: Counts) -> Figure:
    """Endpoint creates on a network with containers, all of which know the new name when the create returns."""
    network = daemon.network("among", subnet="10.208.0.0/16")
    endpoints = [daemon.endpoint(network, f"e{number}") for number in range(counts.among)]
    for number, endpoint in enumerate(endpoints):
        daemon.join(network, endpoint, f"among{number:06d}")
    watch = Stopwatch()
    added = [watch.time(daemon.endpoint, network, f"x{number}") for number in range(counts.settles)]
    for number, endpoint in enumerate(endpoints):
        daemon.leave(network, endpoint, f"among{number:06d}")
    for endpoint in [*endpoints, *added]:
        daemon.delete_endpoint(network, endpoint)
    daemon.delete_network(network)
    return time_of(f"endpoint create beside {counts.among} containers", watch.samples)


def _networks(daemon: Daemon, floor: Floor, counts: Counts) -> list[Figure]:
    create, delete, bridge = Stopwatch(), Stopwatch(), Stopwatch()
    networks = []
    daemon.until_links(daemon.bare_links)
    for number in range(counts.calls):
        bridge.time(floor.network, number)
        networks.append(create.time(daemon.network, f"n{number}"))
    for network in networks:
        delete.time(daemon.delete_network, network)
    links_gone = daemon.until_links(daemon.bare_links)
    return [
        time_of("kernel floor of a network", bridge.samples),
        time_of("network create", create.samples, Target(2.5)),
        ratio_of("network create / floor", create.samples, bridge.samples),
        time_of("network delete, answered", delete.samples, Target(2)),
        Figure(f"kernel cleaned up after {counts.calls} network deletes in a row", links_gone * MS, "ms"),
    ]


def _clean_after(daemon: Daemon, counts: Counts) -> list[Figure]:
    """From the answer until the link is gone; the pinned namespace has to be gone with the answer."""
    leaves, deletes = [], []
    for number in range(counts.settles):
        daemon.until_links(daemon.bare_links)
        network = daemon.network(f"clean{number}")
        endpoint = daemon.endpoint(network, "e")
        key = daemon.join(network, endpoint, f"clean{number:06d}")
        daemon.leave(network, endpoint, f"clean{number:06d}")
        if os.path.exists(key):
            raise RuntimeError(f"{key} is there after the leave")
        leaves.append(daemon.until_links(daemon.bare_links + 1))
        daemon.delete_endpoint(network, endpoint)
        daemon.delete_network(network)
        deletes.append(daemon.until_links(daemon.bare_links))
    second = Target(MS)
    return [
        worst_of("kernel cleaned up after a leave", leaves, second),
        worst_of("kernel cleaned up after a network delete", deletes, second),
    ]
