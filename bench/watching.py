"""What watching for faults costs a join: the whole daemon beside one that does not watch."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev

from bench.figures import MS, Figure, Section, Target
from bench.sandnet_daemon import Daemon
from bench.timing import Counts

UNWATCHED = (sys.executable, "-m", "bench.unwatched")
BESIDE = 100
"""Sandboxes that are there all the time, to be watched."""
SUBNET = "10.213.0.0/16"
TICKS = os.sysconf("SC_CLK_TCK")


def measure(counts: Counts) -> Section:
    """Blocks of joins and leaves at one and at the other, in turn."""
    with ExitStack() as stack:
        watched, bare = (_Side(stack.enter_context(Daemon(*program)), counts) for program in ((), (UNWATCHED,)))
        pairs = [_pair(watched, bare, turn) for turn in range(counts.blocks + 1)][1:]
        processor = [side.processor() for side in (watched, bare)]
    ratios = [mine / other for mine, other in pairs]
    beyond = 2 * stdev(ratios) / sqrt(len(ratios)) if len(ratios) > 1 else 1.0
    figures = (
        Figure("join and leave, watched", median(mine for mine, _ in pairs) * MS, "ms", f"n {len(pairs)} blocks"),
        Figure("join and leave, not watched", median(other for _, other in pairs) * MS, "ms", f"n {len(pairs)} blocks"),
        Figure(
            "watched / not watched",
            mean(ratios),
            "×",
            f"± {beyond:.3f}, blocks {min(ratios):.2f} to {max(ratios):.2f}",
            Target(1 + beyond),
        ),
        Figure("daemon's processor time of both, watched", processor[0] * MS, "ms"),
        Figure("daemon's processor time of both, not watched", processor[1] * MS, "ms"),
    )
    note = (
        f"Two daemons with {BESIDE} sandboxes each; one of them watches nothing: it makes no repairs, removes no "
        f"exited containers, and probes no backends. Blocks of {counts.block} joins and leaves alternate between them. "
        "A block's figure is its mean, so periodic work counts. The ratio is the mean over neighbouring blocks, ± two "
        "standard errors. The target is 1 plus two standard errors. Processor time is that of the process, during the "
        "blocks alone."
    )
    return Section("What watching costs", figures, (note,))


class _Side:
    """A daemon, and what it is measured with."""

    def __init__(self, daemon: Daemon, counts: Counts) -> None:
        self._daemon, self._block = daemon, counts.block
        self._network = daemon.network("watching", subnet=SUBNET)
        for number in range(BESIDE):
            daemon.join(self._network, daemon.endpoint(self._network, f"there{number}"), f"there{number:06d}")
        self._endpoint = daemon.endpoint(self._network, "joined")
        self._ticks, self._times = 0, 0

    def block(self, turn: int) -> float:
        """Return the mean seconds of a join and its leave."""
        ticks = self._spent()
        begun = time.perf_counter()
        for number in range(self._block):
            container = f"block{turn:03d}of{number:06d}"
            self._daemon.join(self._network, self._endpoint, container)
            self._daemon.leave(self._network, self._endpoint, container)
        took = time.perf_counter() - begun
        self._ticks += self._spent() - ticks
        self._times += self._block
        return took / self._block

    def processor(self) -> float:
        """Seconds of the daemon for a join and its leave."""
        return self._ticks / TICKS / self._times

    def _spent(self) -> int:
        fields = Path(f"/proc/{self._daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime and stime (proc(5))


def _pair(watched: _Side, bare: _Side, turn: int) -> tuple[float, float]:
    """Alternate which is first: the first one finds the machine warmer or colder."""
    if turn % 2:
        other = bare.block(turn)
        return watched.block(turn), other
    return watched.block(turn), bare.block(turn)
