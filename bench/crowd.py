"""Many joins at once on one network."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Barrier, Thread

from bench.figures import Figure, Section, Target, percentile
from bench.rest import Connection
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

ALL_WITHIN = 180.0
"""Milliseconds for a crowd of 100."""


def measure(counts: Counts) -> Section:
    """Every join has a thread and an open connection; they start together."""
    with Daemon() as daemon:
        network = daemon.network("crowd", subnet="10.201.0.0/16")
        rounds = [_round(daemon, network, f"{number}-", counts.crowd) for number in range(counts.crowds)]
    target = Target(ALL_WITHIN * counts.crowd / 100)
    what = f"{counts.crowd} joins at once, until the last answer"
    figure = Figure(
        what, percentile(rounds, 50) * 1000, "ms", f"{counts.crowds} rounds, longest {max(rounds) * 1000:.0f}", target
    )
    return Section("Concurrent joins", (figure,))


def _round(daemon: Daemon, network: str, prefix: str, size: int) -> float:
    names = [f"{prefix}{number}" for number in range(size)]
    endpoints = {name: daemon.endpoint(network, name) for name in names}
    calls = [_joining(daemon, network, endpoints[name], name) for name in names]
    took = together(calls)
    for name in names:
        daemon.leave(network, endpoints[name], f"c{name}")
    return took


def _joining(daemon: Daemon, network: str, endpoint: str, name: str) -> Callable[[], None]:
    connection = Connection(str(daemon.socket))
    connection.connect()
    path, body = f"/networks/{network}/endpoints/{endpoint}/containers", {"container_id": f"c{name}"}

    def call() -> None:
        connection.ask("POST", path, body)
        connection.close()

    return call


def together(calls: list[Callable[[], None]]) -> float:
    """Make all the calls at once; the seconds until the last has returned.

    Raises:
        RuntimeError: some of them failed; with the first failure.
    """
    barrier = Barrier(len(calls) + 1)
    failures: list[Exception] = []

    def run(call: Callable[[], None]) -> None:
        barrier.wait()
        try:
            call()
        except Exception as failure:  # raised to the caller, below
            failures.append(failure)

    threads = [Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(calls)} failed") from failures[0]
    return took
