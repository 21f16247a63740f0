"""Traffic at a fixed rate whose every packet is accounted for, to compare with what happens in the meantime.

``python -m bench.flows sinks`` and ``python -m bench.flows sources`` each read a plan, one line of JSON, from standard
input, say that they are ready, and run until standard input ends; then they print what they saw. A socket belongs to
the network namespace it was made in, so one process serves many of them.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import dns.message

from sandnet.kernel.syscalls import in_namespace, opened_namespace

READY = "listening"
PLAN = Any
"""A decoded plan; the keys are those of :class:`bench.restart.Scene`."""
TICK = 0.001
"""Seconds between two looks at what is due."""
LONGEST_TICK = 0.05
"""Seconds that count at most between two looks. What a process that stood still is behind with would overflow queues
on the way, in one burst, and count as lost there."""
QUIET = 0.3
"""Seconds without a packet after which nothing more will come."""
TIMEOUT = 3.0
"""Seconds for the last answers of a resolver."""
BUFFER = 16 << 20
"""Bytes: what is not read in time must not be lost here, where it would be counted as lost on the way."""
CHUNK = 1 << 16
_NUMBER = struct.Struct("!I")
_RETRANSMITTED, _NEEDLESS = 100, 216
"""Offsets of ``tcpi_total_retrans`` and ``tcpi_dsack_dups`` in ``struct tcp_info`` (linux/tcp.h)."""
_SO_RCVBUFFORCE = 33


def made(path: str, kind: int) -> socket.socket:
    """Return an IPv4 socket in the namespace at a path."""
    with opened_namespace(path, follow=True) as namespace, in_namespace(namespace):
        return socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)


def widened(udp: socket.socket) -> socket.socket:
    """With room for what comes while its reader waits for a processor."""
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return udp


class _Pauses:
    """The longest time between two arrivals."""

    def __init__(self) -> None:
        self._last = 0.0
        self.longest = 0.0

    def arrived(self) -> None:
        now = time.perf_counter()
        if self._last:
            self.longest = max(self.longest, now - self._last)
        self._last = now


class Sinks:
    """Everything that takes packets in."""

    def __init__(self, plan: PLAN) -> None:
        self._selector = selectors.DefaultSelector()
        self._numbers: dict[str, set[int]] = defaultdict(set)
        self._pauses: dict[str, _Pauses] = defaultdict(_Pauses)
        self._bytes: dict[str, int] = defaultdict(int)
        for sink in plan:
            tcp = sink["kind"] == "tcp"
            bound = made(sink["path"], socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
            bound.bind(("", sink["port"]))
            if tcp:
                bound.listen()
            self._on(bound if tcp else widened(bound), self._accept if tcp else self._datagrams, sink["flow"])
        self._on_end()

    def _on(self, source: Any, job: Callable[[Any, str], None], flow: str) -> None:
        self._selector.register(source, selectors.EVENT_READ, (job, flow))

    def _on_end(self) -> None:
        self._open = True

        def ended(_source: Any, _flow: str) -> None:
            self._open = False
            self._selector.unregister(sys.stdin)

        self._on(sys.stdin, ended, "")

    def run(self) -> PLAN:
        """Until standard input has ended and it is quiet; by flow what came."""
        quiet_since = time.perf_counter()
        while self._open or time.perf_counter() - quiet_since < QUIET:
            for key, _ in self._selector.select(TICK * 10):
                job, flow = key.data
                job(key.fileobj, flow)
                quiet_since = time.perf_counter()
        return {
            flow: {"packets": len(self._numbers[flow]), "bytes": self._bytes[flow], "pause": pauses.longest}
            for flow, pauses in self._pauses.items()
        }

    def _accept(self, listener: socket.socket, flow: str) -> None:
        stream, _ = listener.accept()
        stream.setblocking(False)
        self._on(stream, self._stream, flow)

    def _stream(self, stream: socket.socket, flow: str) -> None:
        data = stream.recv(CHUNK)
        if not data:
            self._selector.unregister(stream)
            stream.close()
            return
        self._bytes[flow] += len(data)
        self._pauses[flow].arrived()

    def _datagrams(self, udp: socket.socket, flow: str) -> None:
        with suppress(BlockingIOError):
            while True:
                (number,) = _NUMBER.unpack_from(udp.recv(2048))
                self._numbers[flow].add(number)
                self._pauses[flow].arrived()


class Datagrams:
    """Numbered packets at a fixed rate, from several ports in turn."""

    def __init__(self, plan: PLAN) -> None:
        self._rate = plan["rate"]
        self._sockets = [made(plan["path"], socket.SOCK_DGRAM) for _ in range(plan["ports"])]
        for udp in self._sockets:
            udp.connect((plan["address"], plan["port"]))
        self._sent = 0

    def due(self, seconds: float) -> None:
        """Send what is to be sent by then."""
        while self._sent < seconds * self._rate:
            udp = self._sockets[self._sent % len(self._sockets)]
            try:
                udp.send(_NUMBER.pack(self._sent) + bytes(60))
            except BlockingIOError:
                return
            except ConnectionRefusedError:  # reports an earlier packet; this one is sent again
                continue
            self._sent += 1

    def end(self) -> PLAN:
        """How many were sent."""
        return {"packets": self._sent}


class Stream:
    """TCP at a fixed rate."""

    def __init__(self, plan: PLAN) -> None:
        self._rate = plan["rate"]
        self._stream = made(plan["path"], socket.SOCK_STREAM)
        self._stream.setblocking(True)
        self._stream.connect((plan["address"], plan["port"]))
        self._stream.setblocking(False)
        self._sent = 0

    def due(self, seconds: float) -> None:
        """Send what is to be sent by then, if there is room."""
        with suppress(BlockingIOError):
            while self._sent < seconds * self._rate:
                self._sent += self._stream.send(bytes(CHUNK))

    def end(self) -> PLAN:
        """How much was sent, how many segments twice, and how many of those the receiver had already.

        A sender whose receiver waits for a processor sends its last segment again (RFC 8985, 7), and learns that it
        was there (RFC 2883). Any other was lost.
        """
        time.sleep(QUIET)  # notifications about the last segments arrive
        info = self._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        self._stream.close()
        again, needless = (struct.unpack_from("=I", info, place)[0] for place in (_RETRANSMITTED, _NEEDLESS))
        return {"bytes": self._sent, "again": again, "needless": needless}


class Questions:
    """Questions for a name at a fixed rate, whether the ones before are answered or not."""

    def __init__(self, plan: PLAN) -> None:
        self._rate, self._name = plan["rate"], plan["name"]
        self._udp = widened(made(plan["path"], socket.SOCK_DGRAM))
        self._udp.connect((plan["address"], plan["port"]))
        self._asked: dict[int, float] = {}
        self._count = 0
        self._longest = 0.0

    def due(self, seconds: float) -> None:
        """Ask what is to be asked by then, and take answers."""
        self._take()
        while self._count < seconds * self._rate:
            query = dns.message.make_query(self._name, "A", id=self._count % 65536)
            self._asked[query.id] = time.perf_counter()
            self._count += 1
            with suppress(OSError):  # the question counts as asked, and stays unanswered
                self._udp.send(query.to_wire())

    def _take(self) -> None:
        with suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                reply = dns.message.from_wire(self._udp.recv(2048))
                asked = self._asked.pop(reply.id, None)
                if asked is None or not reply.answer:
                    raise RuntimeError(f"an answer that is none: {reply}")
                self._longest = max(self._longest, time.perf_counter() - asked)

    def end(self) -> PLAN:
        """How many were asked and not answered, and how long the slowest answer took."""
        deadline = time.perf_counter() + TIMEOUT
        while self._asked and time.perf_counter() < deadline:
            self._take()
            time.sleep(TICK)
        return {"packets": self._count, "unanswered": len(self._asked), "pause": self._longest}


_KINDS: dict[str, type[Datagrams | Stream | Questions]] = {"udp": Datagrams, "tcp": Stream, "names": Questions}


def sources(plan: PLAN) -> PLAN:
    """Send until standard input has ended; by flow what was sent. Time in which it stood still is left out."""
    made_of: dict[str, Datagrams | Stream | Questions] = {each["flow"]: _KINDS[each["kind"]](each) for each in plan}
    print(READY, flush=True)
    os.set_blocking(sys.stdin.fileno(), False)
    elapsed, last = 0.0, time.perf_counter()
    while _is_open():
        now = time.perf_counter()
        elapsed, last = elapsed + min(now - last, LONGEST_TICK), now
        for source in made_of.values():
            source.due(elapsed)
        time.sleep(TICK)
    return {flow: source.end() for flow, source in made_of.items()}


def _is_open() -> bool:
    try:
        return bool(os.read(sys.stdin.fileno(), 1))
    except BlockingIOError:
        return True


def main(words: Sequence[str]) -> None:
    """One of the two ends."""
    plan = json.loads(sys.stdin.readline())
    if words == ["sinks"]:
        sinks = Sinks(plan)
        print(READY, flush=True)
        print(json.dumps(sinks.run()))
    else:
        print(json.dumps(sources(plan)))


if __name__ == "__main__":
    main(sys.argv[1:])
