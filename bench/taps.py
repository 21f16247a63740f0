"""Joins that make a tap, beside those that make a pair of links."""

from __future__ import annotations

import os
import time
from typing import Final

from bench.attach import REFILL
from bench.figures import Figure, Section, Target, ratio_of, time_of
from bench.peers.base import skipped
from bench.rest import JSON
from bench.sandnet_daemon import Daemon
from bench.timing import Counts, Stopwatch

TITLE = "Taps of virtual machines"
_KINDS: Final[dict[str, JSON]] = {
    "an interface in a sandbox": {},
    "a tap on the host": {"type": "tap"},
    "a tap in a sandbox": {"type": "tap", "tap": {"place": "sandbox"}},
}
_BOUND: Final = 1.0


def measure(counts: Counts) -> Section:
    """Join and leave, one kind after the other in each round."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return skipped(TITLE, "/dev/net/tun cannot be opened")
    joins, leaves = ({kind: Stopwatch() for kind in _KINDS} for _ in range(2))
    with Daemon() as daemon:
        network = daemon.network("taps", subnet="10.203.0.0/16")
        for number in range(counts.calls + counts.warm_up):
            endpoint = daemon.endpoint(network, f"e{number}")
            for kind, body in _KINDS.items():
                path, container = f"/networks/{network}/endpoints/{endpoint}/containers", f"c{number:06d}"
                time.sleep(REFILL)
                joins[kind].time(daemon.rest.ask, "POST", path, {"container_id": container, **body})
                time.sleep(REFILL)
                leaves[kind].time(daemon.leave, network, endpoint, container)
            daemon.delete_endpoint(network, endpoint)
    figures: list[Figure] = []
    for verb, watches in (("join", joins), ("leave", leaves)):
        samples = {kind: watch.samples[counts.warm_up :] for kind, watch in watches.items()}
        figures += [time_of(f"{verb}, {kind}", found) for kind, found in samples.items()]
        usual, tap, _ = samples.values()
        target = Target(_BOUND) if verb == "join" else None
        figures.append(ratio_of(f"{verb}, a tap on the host / an interface", tap, usual, target))
    return Section(TITLE, tuple(figures))
