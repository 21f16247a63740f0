"""A hostile program in a sandbox: ``python -m tests.support.flood SECONDS KIND…`` floods its name server in these ways.

It sends as fast as it can, all kinds by turns, and reads no more answers than it has to.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

SERVER = ("127.0.0.11", 53)
BURST = 64
"""Datagrams sent in one turn of a kind."""
_OPT = b"\0\0\x29\x10\0" + bytes(4)
_serial = count()


def question(*labels: bytes, kind: int = 1, additional: bytes = b"", records: int = 0) -> bytes:
    """A query with these labels, and additional records as they are given."""
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return (
        struct.pack("!6H", next(_serial) & 0xFFFF, 0x0100, 1, 0, 0, records)
        + name
        + struct.pack("!2H", kind, 1)
        + additional
    )


def tiny() -> bytes:
    """The shortest that is a message, and the shortest question."""
    return random.choice((bytes(12), question()))


def local() -> bytes:
    """A name that is known, spelled at random."""
    return question(bytes(random.choice((letter, letter - 32)) for letter in b"web"))


def long() -> bytes:
    """A name of as many labels as there may be, of bytes that have to be escaped."""
    return question(*(random.randbytes(1) for _ in range(126)), b"front"[:1])


def missing() -> bytes:
    """A name under the network's name that no one bears, another each time."""
    return question(b"%x" % random.getrandbits(200), b"front")


def optional() -> bytes:
    """EDNS with an option of any length."""
    size = random.randrange(1100)
    option = struct.pack("!HHH", size + 4, 12, size) + bytes(size)
    return question(b"web", additional=_OPT + option, records=1)


def pointers() -> bytes:
    """Compression pointers, where none may be, and as owners of additional records."""
    owners = b"".join(b"\xc0\x0c\0\1\0\1" + bytes(6) for _ in range(80))
    return random.choice(
        (question(b"web", additional=owners, records=80), bytes(4) + b"\0\1" + bytes(6) + b"\xc0\x0c" * 600)
    )


def reverse() -> bytes:
    """An address in reverse, of either family."""
    if random.random() < 0.5:
        return question(*(b"%d" % random.randrange(256) for _ in range(4)), b"in-addr", b"arpa", kind=12)
    return question(*(b"%x" % random.randrange(16) for _ in range(32)), b"ip6", b"arpa", kind=12)


def foreign() -> bytes:
    """A name that goes upstream."""
    return question(b"%x" % random.getrandbits(64), b"example", b"org")


def large() -> bytes:
    """64 KB with 5,900 additional records."""
    return question(b"web", additional=(b"\0\0\1\0\1" + bytes(6)) * 5900, records=5900)


def big_answer() -> bytes:
    """A name with a thousand addresses."""
    return question(b"many")


Flood = Iterator[None]


def datagrams(made: Callable[[], bytes]) -> Flood:
    """Send datagrams; read none."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect(SERVER)
    out.setblocking(False)
    ready = [made()[:9000] for _ in range(512)]
    for turn in count():
        if turn % 16 == 15:
            ready = [made()[:9000] for _ in range(512)]
        for query in random.sample(ready, BURST):
            with suppress(OSError):
                out.send(query)
        yield


def streams(made: Callable[[], bytes], connections: int, *, reads: bool = True) -> Flood:
    """Keep so many connections full of questions."""
    frames = b"".join(len(query).to_bytes(2, "big") + query for query in (made() for _ in range(200)))[: 1 << 18]
    held: dict[int, tuple[socket.socket, bytes]] = {}
    while True:
        for number in range(connections):
            out, rest = held.pop(number) if number in held else (_connected(), frames)
            try:
                rest = rest[out.send(rest) :] or frames
                while reads and out.recv(1 << 16):
                    pass
            except BlockingIOError:
                held[number] = out, rest
            except OSError:
                out.close()
            else:
                held[number] = out, rest
        yield


def _connected() -> socket.socket:
    out = socket.socket()
    out.setblocking(False)
    with suppress(BlockingIOError):
        out.connect(SERVER)
    return out


def knocking() -> Flood:
    """Open connections and close them again."""
    while True:
        opened = [_connected() for _ in range(50)]
        yield
        for each in opened:
            each.close()


KINDS: dict[str, Callable[[], Flood]] = {
    "tiny": lambda: datagrams(tiny),
    "local": lambda: datagrams(local),
    "long": lambda: datagrams(long),
    "missing": lambda: datagrams(missing),
    "optional": lambda: datagrams(optional),
    "pointers": lambda: datagrams(pointers),
    "reverse": lambda: datagrams(reverse),
    "foreign": lambda: datagrams(foreign),
    "large": lambda: datagrams(large),
    "tcp-large": lambda: streams(large, 16),
    "tcp-local": lambda: streams(local, 32),
    "tcp-long": lambda: streams(long, 32),
    "tcp-foreign": lambda: streams(foreign, 32),
    "tcp-big-answer": lambda: streams(big_answer, 16),
    "tcp-unread": lambda: streams(big_answer, 32, reads=False),
    "knocking": knocking,
}


def main() -> None:
    """Flood until the time is over."""
    end = time.monotonic() + float(sys.argv[1])
    floods = [KINDS[kind]() for kind in sys.argv[2:]]
    while time.monotonic() < end:
        for flood in floods:
            next(flood)


if __name__ == "__main__":
    main()
