"""A wire between two taps that holds each frame for a time, and loses some: many kernels have no netem."""

from __future__ import annotations

import fcntl
import os
import random
import select
import time
from collections import deque
from typing import Final, NamedTuple, NoReturn

from sandnet.kernel.linux.taps.device import DEVICE, IFF_NO_PI, IFF_TAP, IFREQ, TUNSETIFF

FRAME_LIMIT: Final = 1 << 17
"""Bytes of a frame at most."""
QUEUE_LIMIT: Final = 20_000
"""Frames on their way in one direction at most; further ones are lost."""
_BATCH: Final = 256
"""Frames that are read before the clock is read again."""


class Impairment(NamedTuple):
    """What happens to frames from and to a host."""

    delay: float
    """Seconds."""
    loss: float
    """Share of the frames that are lost, from 0 to 1."""


class _Direction(NamedTuple):
    source: int
    target: int
    queue: deque[tuple[float, bytes]]
    """Frames, each with the time at which it is due. All have the same delay, so the first is due first."""


def run_delay_line(near: str, far: str, impairment: Impairment) -> NoReturn:
    """Pass frames between two existing taps until this process is killed."""
    first, second = _open_tap(near), _open_tap(far)
    directions = {
        first: _Direction(first, second, deque()),
        second: _Direction(second, first, deque()),
    }
    while True:
        dues = [direction.queue[0][0] for direction in directions.values() if direction.queue]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        for source in select.select(directions, (), (), timeout)[0]:
            _receive(directions[source], impairment)
        for direction in directions.values():
            _send_due(direction)


def _receive(direction: _Direction, impairment: Impairment) -> None:
    due = time.monotonic() + impairment.delay
    for _ in range(_BATCH):
        try:
            frame = os.read(direction.source, FRAME_LIMIT)
        except OSError:  # nothing more, or the tap is down
            return
        if len(direction.queue) < QUEUE_LIMIT and random.random() >= impairment.loss:  # noqa: S311 (no secret)
            direction.queue.append((due, frame))


def _send_due(direction: _Direction) -> None:
    now = time.monotonic()
    while direction.queue and direction.queue[0][0] <= now:
        try:
            os.write(direction.target, direction.queue.popleft()[1])
        except OSError:  # the tap is down: a wire without an end
            continue


def _open_tap(name: str) -> int:
    tap = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tap, TUNSETIFF, IFREQ.pack(name.encode(), IFF_TAP | IFF_NO_PI))
    return tap
