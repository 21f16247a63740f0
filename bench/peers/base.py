"""What a peer is, and how it is measured beside sandnet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bench.figures import Figure, Section, Target, ratio_of, time_of
from bench.sandnet_daemon import Daemon
from bench.timing import Stopwatch

PAUSE = 0.1
"""Seconds before each call, for what the kernel has still to do after the one before: links and namespaces of
anybody's die in the background, under a lock that everybody needs."""
WHOLE = 4294967295
"""Length of the identity mapping of user ids where there is no user namespace (user_namespaces(7))."""


class Peer(Protocol):
    """A program that attaches containers to networks. ``number`` counts rounds."""

    name: str
    """With its version."""

    def create_network(self, number: int) -> None:
        """Create a network."""

    def delete_network(self, number: int) -> None:
        """Delete it."""

    def prepare(self, number: int) -> None:
        """Make what an attach needs and does not make itself."""

    def attach(self, number: int) -> None:
        """Attach a container."""

    def detach(self, number: int) -> None:
        """Take it off again."""

    def clear(self, number: int) -> None:
        """Undo what was prepared."""


class Ours:
    """sandnet in the part of a peer: a new container each time, so its namespace is part of the attach."""

    name = "sandnet"

    def __init__(self, daemon: Daemon, **endpoint: object) -> None:
        self._daemon = daemon
        self._options = endpoint
        self._network = daemon.network("peers", subnet="10.207.0.0/16")
        self._endpoint = ""
        self._created = ""

    def create_network(self, number: int) -> None:
        """``POST /networks``."""
        self._created = self._daemon.network(f"n{number}")

    def delete_network(self, number: int) -> None:
        """``DELETE /networks/…``."""
        self._daemon.delete_network(self._created)

    def prepare(self, number: int) -> None:
        """Create an endpoint."""
        self._endpoint = self._daemon.endpoint(self._network, f"e{number}")

    def attach(self, number: int) -> None:
        """Join."""
        self._daemon.join(self._network, self._endpoint, f"c{number:06d}")

    def detach(self, number: int) -> None:
        """Leave."""
        self._daemon.leave(self._network, self._endpoint, f"c{number:06d}")

    def clear(self, number: int) -> None:
        """Delete the endpoint."""
        self._daemon.delete_endpoint(self._network, self._endpoint)


def beside(peer: Peer, ours: Peer, verbs: tuple[str, ...], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return times of ours and of the peer's for every verb, taken alternately after one round to warm up."""
    watches = {verb: (Stopwatch(), Stopwatch()) for verb in verbs}
    for number in range(rounds + 1):
        for each in (ours, peer):
            each.prepare(number)
        for verb in verbs:
            for watch, each in zip(watches[verb], (ours, peer), strict=True):
                call: Callable[[int], None] = getattr(each, verb)
                time.sleep(PAUSE)
                watch.time(call, number)
        for each in (ours, peer):
            each.clear(number)
    return {verb: (mine.samples[1:], other.samples[1:]) for verb, (mine, other) in watches.items()}


def compared(name: str, verb: str, ours: list[float], theirs: list[float], bound: float | None = None) -> list[Figure]:
    """Return the lines of one verb."""
    return [
        time_of(f"{verb}, {name}", theirs),
        time_of(f"{verb}, sandnet", ours),
        ratio_of(f"{verb}, sandnet / {name}", ours, theirs, Target(bound) if bound else None),
    ]


def really_root() -> bool:
    """Whether we are root of the machine, not of a user namespace."""
    mapping = Path("/proc/self/uid_map").read_text().split()
    return os.geteuid() == 0 and int(mapping[2]) == WHOLE


def skipped(title: str, why: str) -> Section:
    """Return the section of a peer that is not there."""
    return Section(title, (), (f"Skipped: {why}.",))
