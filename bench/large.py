"""Thousands of networks and endpoints on one host: what a start, a check and the memory come to."""

from __future__ import annotations

from statistics import median

from bench.figures import MS, Figure, Section, Target
from bench.host import resident
from bench.sandnet_daemon import Daemon
from bench.timing import Counts, Stopwatch

ENDPOINTS = 5
"""On each network."""
STARTS = 3
START = Target(8000)
"""Milliseconds until it answers."""
CHECK = Target(4)
"""Seconds of processor time."""
MEMORY = Target(300)
"""MiB of the daemon."""


def measure(counts: Counts) -> Section:
    """Fill a daemon, start it again several times, and have it compare its records with the kernel.

    One endpoint of each second network has a sandbox.
    """
    with Daemon() as daemon:
        sandboxes = sum(_fill(daemon, number) for number in range(counts.networks))
        endpoints = counts.networks * ENDPOINTS
        before = resident(daemon.pid)
        starts = [daemon.restart() for _ in range(STARTS)]
        after = resident(daemon.pid)
        watch, used = Stopwatch(), daemon.processor_time()
        watch.time(daemon.check)
        used = daemon.processor_time() - used
    took = f"{watch.samples[0] * MS:.0f} ms by the clock"
    spread = f"{min(starts) * MS:.0f} to {max(starts) * MS:.0f}, n {STARTS}"
    title = f"{counts.networks} networks with {endpoints} endpoints"
    return Section(
        title,
        (
            Figure("start, until it answers", median(starts) * MS, "ms", spread, START),
            Figure("processor time of a check of everything", used, "s", took, CHECK),
            Figure("daemon's memory when all were created", before, "MiB", "", MEMORY),
            Figure("daemon's memory after a start and a check", after, "MiB", "", MEMORY),
        ),
        (f"{sandboxes} of the endpoints have a sandbox. The check is that of `sandnet doctor`.",),
    )


def _fill(daemon: Daemon, number: int) -> int:
    """Make a network and its endpoints; return how many sandboxes it got."""
    network = daemon.network(f"n{number}", subnet=f"10.{32 + number // 256}.{number % 256}.0/24")
    endpoints = [daemon.endpoint(network, f"e{number}-{one}") for one in range(ENDPOINTS)]
    if number % 2:
        return 0
    daemon.join(network, endpoints[0], f"large{number:06d}")
    return 1
