"""The least that an answer over UDP costs in Python: ``python -m bench.echo ADDRESS PORT``.

Every question gets the same record, and none is looked at. What is slow here is slow because of the machine.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

LISTENING: Final = "listening"
_ANSWERED: Final = b"\x81\x80\0\1\0\1\0\0\0\0"
"""Flags and counts of a reply: no error, one question, one answer (RFC 1035 section 4.1.1)."""
_RECORD: Final = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1"
"""The name asked for, A, IN, no time to live, 127.0.0.1."""


def serve(address: str, port: int) -> None:
    """Answer for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, port))
        print(LISTENING, flush=True)
        while True:
            query, client = listener.recvfrom(512)
            listener.sendto(answer(query), client)


def answer(query: bytes) -> bytes:
    """Return the reply to a query of one question and nothing behind it."""
    return query[:2] + _ANSWERED + query[12:] + _RECORD


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
