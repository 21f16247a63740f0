"""Rates of real traffic, counted as bytes of layer 2 over five seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tests.support.traffic import TCP, UDP, Place

SECONDS: Final = 5.0
"""For how long a rate is counted."""
SETTLING: Final = 0.5
"""Seconds until bucket and queue are as they stay."""
DATAGRAM: Final = 1400
HEADERS: Final = 14 + 20 + 8
"""Bytes of Ethernet, IPv4 and UDP before a datagram."""
SEGMENT: Final = 1448
FRAME: Final = 1514
"""Bytes of a full TCP segment with timestamps, and of its frame, at an MTU of 1500."""
PACE: Final = 4
"""How many times as much as the limit is sent, where nothing else keeps the sender from it."""


class Flow:
    """Traffic from one place to another, which counts what arrives.

    Args:
        source: where it is sent.
        target: where it is counted.
        address: the target's.
        limit: bits per second that are expected.
        proto: TCP or UDP.
    """

    def __init__(self, source: Place, target: Place, address: str, limit: int, proto: int) -> None:
        self._received = 0
        self._ended = threading.Event()
        self.limit = limit
        self._accepted: socket.socket | None = None
        receiver = target.bound(address, proto)
        port = receiver.getsockname()[1]
        if proto == UDP:
            sender = source.bound("0.0.0.0", UDP)
            sender.connect((address, port))
            work: tuple[Callable[[], None], ...] = (lambda: self._flood(sender), lambda: self._count(receiver))
        else:
            receiver.listen()
            sender = source.bound("0.0.0.0", TCP)
            sender.connect((address, port))
            self._accepted = accepted = receiver.accept()[0]
            work = (lambda: self._push(sender), lambda: self._count(accepted))
        self._weight = (DATAGRAM + HEADERS) / DATAGRAM if proto == UDP else FRAME / SEGMENT
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    @property
    def received(self) -> float:
        """Bytes of layer 2 that have arrived."""
        return self._received * self._weight

    def end(self) -> None:
        """Stop sending and counting."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._accepted:
            self._accepted.close()

    def _flood(self, sender: socket.socket) -> None:
        began, sent, data = time.monotonic(), 0, bytes(DATAGRAM)
        while not self._ended.is_set():
            due = (time.monotonic() - began) * self.limit * PACE / 8
            while sent < due:
                with suppress(OSError):
                    sender.send(data)
                sent += DATAGRAM
            self._ended.wait(0.002)

    def _push(self, sender: socket.socket) -> None:
        data = bytes(1 << 14)
        sender.settimeout(1)
        while not self._ended.is_set():
            with suppress(OSError):
                sender.send(data)

    def _count(self, receiver: socket.socket) -> None:
        receiver.settimeout(0.2)
        while not self._ended.is_set():
            with suppress(OSError):
                self._received += len(receiver.recv(1 << 16))


WINDOWS: Final = 6
"""How often a rate is counted at most.

On a machine that is short of processors, too little is sent for a while, and a receiver reads late what came before.
"""


def measured(flow: Flow, exact: float) -> float:
    """Return the rate of a flow, in bits per second of layer 2, and end the flow.

    Args:
        flow: the flow.
        exact: the part of the limit by which a rate may differ. A rate that differs by more is counted again.
    """
    time.sleep(SETTLING)
    try:
        for _ in range(WINDOWS):
            began, before = time.monotonic(), flow.received
            time.sleep(SECONDS)
            rate = (flow.received - before) * 8 / (time.monotonic() - began)
            if abs(rate / flow.limit - 1) <= exact:
                break
    finally:
        flow.end()
    return rate
