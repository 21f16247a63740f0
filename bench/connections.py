"""New TCP connections a second, with Python's own sockets.

``python -m bench.connections serve PATH...`` takes connections in all these network namespaces, one process for
all of them, so that it costs the same wherever a connection arrives; ``open ADDRESS SECONDS`` opens one after the
other and prints how many a second that were.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from sandnet.kernel.syscalls import in_namespace, opened_namespace

PORT = 5202
BACKLOG = 4096
BATCH = 64
"""Connections taken from one namespace before the others get their turn."""
_ABORT = struct.pack("ii", 1, 0)
"""``struct linger``: a close is a reset, so no port of the client's is kept for a minute (socket(7))."""


def serve(paths: Sequence[str]) -> None:
    """Take and close connections, for ever."""
    selector = selectors.DefaultSelector()
    for path in paths:
        with opened_namespace(path) as namespace, in_namespace(namespace):
            listener = socket.create_server(("", PORT), backlog=BACKLOG)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, listener)
    print("listening", flush=True)
    while True:
        for key, _ in selector.select():
            _take(key.data)


def _take(listener: socket.socket) -> None:
    with suppress(BlockingIOError, ConnectionError):
        for _ in range(BATCH):
            listener.accept()[0].close()


def open_many(address: str, seconds: float) -> float:
    """Open and reset connections for so long; how many a second."""
    opened, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            connection.connect((address, PORT))
        opened += 1
    return opened / (time.perf_counter() - begun)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2:])
    else:
        print(open_many(sys.argv[2], float(sys.argv[3])))
