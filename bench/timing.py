"""Taking times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Stopwatch:
    """Times of one kind of call, in seconds, in the order of the calls."""

    samples: list[float] = field(default_factory=list)

    def time(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it, and note how long that took if it succeeds."""
        begun = time.perf_counter()
        answer = call(*args, **kwargs)
        self.samples.append(time.perf_counter() - begun)
        return answer


@dataclass(frozen=True)
class Counts:
    """How often things are done."""

    calls: int = 200
    """Calls of one kind, where a median is asked for."""
    settles: int = 20
    """Calls after each of which the kernel is watched until it is clean."""
    among: int = 20
    """Containers on a network that gets more endpoints."""
    crowd: int = 100
    """Joins at once."""
    crowds: int = 3
    many: int = 1000
    """Networks, endpoints, published ports."""
    networks: int = 2000
    """Of a large host."""
    sandboxes: int = 1000
    """That a resolver serves."""
    window: int = 30
    """How many at the beginning and at the end of those are compared."""
    warm_up: int = 20
    commands: int = 20
    streams: int = 9
    seconds: int = 1
    """Of each stream."""
    peers: int = 30
    """Rounds with a peer."""
    blocks: int = 24
    """Of joins and leaves that are compared, on each side."""
    block: int = 50
    """Joins and leaves of one."""


QUICK = Counts(
    calls=15,
    settles=3,
    among=5,
    crowd=20,
    crowds=1,
    many=40,
    networks=40,
    sandboxes=200,
    window=10,
    warm_up=3,
    commands=3,
    streams=1,
    seconds=1,
    peers=3,
    blocks=2,
    block=5,
)
"""To see that everything works; the figures mean little."""
