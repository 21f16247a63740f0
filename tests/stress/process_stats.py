"""What a daemon and its resolver use, and whether it grows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

from tests.support.daemon import RunningDaemon

MIB: Final = 1 << 20


class Sample(NamedTuple):
    """What is used at a moment. Sizes in bytes."""

    seconds: float
    daemon_fds: int
    daemon_threads: int
    daemon_rss: int
    resolver_fds: int
    resolver_threads: int
    resolver_rss: int
    links: int
    elements: int
    namespaces: int
    mounts: int
    store: int


class Measure(NamedTuple):
    """How a figure is judged: by how much the last third of the samples may be above the first."""

    title: str
    allowed: float
    """Absolute, in the figure's own unit."""
    relative: float = 0.0
    """Of the first third."""
    size: bool = False


MEASURES: Final[Mapping[str, Measure]] = {
    "daemon_fds": Measure("daemon: descriptors", 2),
    "daemon_threads": Measure("daemon: threads", 1),
    "daemon_rss": Measure("daemon: resident memory", 2 * MIB, 0.03, size=True),
    "resolver_fds": Measure("resolver: descriptors", 2),
    "resolver_threads": Measure("resolver: threads", 1),
    "resolver_rss": Measure("resolver: resident memory", 2 * MIB, 0.03, size=True),
    "links": Measure("links of the host", 0),
    "elements": Measure("elements of nftables", 0),
    "namespaces": Measure("pinned namespaces", 0),
    "mounts": Measure("mounts of the host", 0),
    "store": Measure("store on the disk", MIB, size=True),
}

_HELD_IN_POOL = 3
"""Descriptors of a prepared sandbox: its namespace and two sockets."""


class Finding(NamedTuple):
    """How one figure went."""

    measure: Measure
    first: float
    last: float
    highest: float
    slope: float
    """Per hour, by least squares."""

    @property
    def is_flat(self) -> bool:
        """Whether the last third is no more above the first than is allowed."""
        return self.last <= self.first + max(self.measure.allowed, self.measure.relative * self.first)


def sample(running: RunningDaemon, seconds: float, *, elements: bool = True) -> Sample:
    """Look now. Elements take a while to count where there are many."""
    assert running.process
    resolvers = running.resolvers()
    fds, threads, memory = _process(running.process.pid)
    resolver = _process(resolvers[0] if resolvers else 0)
    files = [path for path in running.state.glob("sandnet.db*") if path.is_file()]
    mounts = running.host.run(Path("/proc/thread-self/mountinfo").read_text).count("\n")
    return Sample(
        seconds,
        fds - _HELD_IN_POOL * len(running.prepared()),  # the pool follows the demand
        threads,
        memory,
        *resolver,
        links=len(running.links()),
        elements=_elements(running) if elements else 0,
        namespaces=len(running.pinned()),
        mounts=mounts,
        store=sum(path.stat().st_size for path in files),
    )


def _process(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads, resident bytes; nothing of a process that is not there."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), int(status["VmRSS"].split()[0]) * 1024
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0, 0, 0


def _elements(running: RunningDaemon) -> int:
    """Those that we made; not those that rules learn from traffic and forget."""
    ruleset = json.loads(running.host.sh("nft", "-j", "list", "ruleset"))["nftables"]
    sets = [each[kind] for each in ruleset for kind in ("set", "map") if kind in each]
    return sum(len(each.get("elem", ())) for each in sets if "dynamic" not in each.get("flags", ()))


def findings(samples: Sequence[Sample]) -> list[Finding]:
    """How each figure went over samples that were all taken when nothing was there."""
    third = max(1, len(samples) // 3)
    hours = [each.seconds / 3600 for each in samples]
    made = []
    for name, measure in MEASURES.items():
        values = [float(getattr(each, name)) for each in samples]
        first, last = median(values[:third]), median(values[-third:])
        made.append(Finding(measure, first, last, max(values), slope(hours, values)))
    return made


def slope(places: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the points that has the least squares; 0 through a single one."""
    middle, level = fmean(places), fmean(values)
    width = sum((place - middle) ** 2 for place in places)
    return sum((place - middle) * (value - level) for place, value in zip(places, values, strict=True)) / (width or 1)


def table(found: Sequence[Finding]) -> str:
    """As Markdown."""
    lines = ["| what | first third | last third | highest | slope an hour | flat |", "|---|---|---|---|---|---|"]
    for each in found:
        reported = [_reported(value, each.measure) for value in (each.first, each.last, each.highest, each.slope)]
        lines.append(f"| {each.measure.title} | {' | '.join(reported)} | {'yes' if each.is_flat else '**no**'} |")
    return "\n".join(lines)


def _reported(value: float, measure: Measure) -> str:
    return f"{value / MIB:.2f} MiB" if measure.size else f"{value:.4g}"
