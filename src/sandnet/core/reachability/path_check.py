"""How this host reaches another one: by the VXLAN port, with packets of which size, how fast, and at what time there.

Sizes are those of IP packets, and each counts only when it passes both ways.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from sandnet.core.reachability.echo import answers_echo
from sandnet.core.reachability.probe_exchange import ProbeExchange, bound_socket
from sandnet.core.reachability.probe_frames import SMALLEST, Probe
from sandnet.model import Address

DEADLINE: Final = 2.0
"""Seconds of a whole check."""
_FIRST: Final = 0.75
"""Seconds for the smallest and the largest packet together."""
_SENDS: Final = 3
"""How often a packet is sent in that time: the first waits for the neighbour's MAC, and any may be lost."""
_ECHO: Final = 0.75
_SEARCH: Final = (0.15, 0.35)
"""Seconds for one round of sizes: the least, and the most; between them, some round trips."""
_ROUNDS: Final = 3
_SIZES: Final = 16
"""Sizes in one round: three rounds find the last byte of 4,096."""

VxlanState = Literal["answered", "refused", "silent", "unknown"]


class PathState(NamedTuple):
    """What a check found."""

    vxlan: VxlanState
    """``refused``: nothing there receives the port. ``unknown``: no probe was possible."""
    echo: bool
    """Whether the host answers at all."""
    round_trip: float | None = None
    """Seconds; ``None``: no answer."""
    path_mtu: int | None = None
    """The largest packet that was answered, up to the needed one."""
    clock: float | None = None
    """Seconds by which the other host's clock is ahead; it may be wrong by half of the round trip."""


class PathCheck:
    """One check of one host.

    Args:
        exchange: open.
        local: this host's address for other hosts.
        target: the other host's, of the same family.
        needed: the size of the packets of overlay networks.
    """

    def __init__(self, exchange: ProbeExchange, local: Address, target: Address, needed: int) -> None:
        self._exchange, self._local, self._target = exchange, local, target
        self._needed, self._version = needed, local.version
        self._answered: set[int] = set()
        self._nonces: list[bytes] = []
        self._progress = asyncio.Event()
        self._refused = False
        self._best: tuple[float, float] | None = None
        """The shortest round trip, and the clock's difference by it."""

    async def run(self) -> PathState:
        """Return what is found within :data:`DEADLINE`.

        Raises:
            OSError: no socket can be opened.
        """
        try:
            with bound_socket(self._local) as sender:
                sender.connect((str(self._target), self._exchange.port))
                return await self._found(sender)
        finally:
            self._exchange.forget(self._nonces)

    async def _found(self, sender: socket.socket) -> PathState:
        smallest = SMALLEST[self._version]
        await self._ask(sender, (smallest, self._needed), _FIRST, _SENDS)
        if self._best is None:
            refused = self._refused or sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            with suppress(OSError):
                echo = await answers_echo(self._local, self._target, _ECHO)
                return PathState("refused" if refused else "silent", echo or refused)
            return PathState("refused" if refused else "silent", refused)
        if self._needed not in self._answered:
            await self._search(sender)
        return PathState(
            "answered", echo=True, round_trip=self._best[0], path_mtu=max(self._answered), clock=self._best[1]
        )

    async def _search(self, sender: socket.socket) -> None:
        """Find the largest size that passes, below the needed one."""
        least, most = _SEARCH
        above = self._needed
        for _ in range(_ROUNDS):
            below = max(self._answered)
            sizes = _between(below, above)
            if not sizes:
                return
            trip = self._best[0] if self._best else most
            await self._ask(sender, sizes, min(most, max(least, 4 * trip)), 2)
            best = max(self._answered)
            above = min((size for size in sizes if size > best), default=above)

    async def _ask(self, sender: socket.socket, sizes: Sequence[int], seconds: float, sends: int) -> None:
        """Send these sizes until all are answered, some times at most."""
        for _ in range(sends):
            missing = [size for size in sizes if size not in self._answered]
            for size in missing:
                self._send(sender, size)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds / sends):
                    while not self._answered.issuperset(missing):
                        self._progress.clear()
                        await self._progress.wait()
            if self._answered.issuperset(sizes):
                return

    def _send(self, sender: socket.socket, size: int) -> None:
        sent = time.monotonic_ns()

        def answered(probe: Probe) -> None:
            trip = (time.monotonic_ns() - sent) / 1e9
            if self._best is None or trip < self._best[0]:
                self._best = trip, (probe.clock - time.time_ns()) / 1e9 + trip / 2
            self._answered.add(size)
            self._progress.set()

        content, nonce = self._exchange.question(size, self._version, answered)
        self._nonces.append(nonce)
        try:
            sender.send(content)
        except OSError as failure:  # too large for the own link; no route; the port is closed there
            self._refused = self._refused or failure.errno == errno.ECONNREFUSED


def _between(below: int, above: int) -> list[int]:
    """Return sizes between two, evenly spaced."""
    step = (above - below) / (_SIZES + 1)
    return sorted({below + round(step * number) for number in range(1, _SIZES + 1)} - {below, above})
