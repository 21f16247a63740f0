"""Receive the descriptors that another process passes over a unix socket (``SCM_RIGHTS``, unix(7)).

``socket.recv_fds`` ignores its flags in Python 3.11, so a program that is started later would inherit them.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_DESCRIPTOR: Final = struct.Struct("=i")


class Received(NamedTuple):
    """What one call has received; the caller owns the descriptors."""

    data: bytes
    """Empty: the other end is closed."""
    descriptors: list[int]
    truncated: bool
    """Descriptors are missing: there were more than expected, or this process has too few free ones."""


def receive(connection: socket.socket, size: int, most: int) -> Received:
    """Receive data and descriptors, which are closed in programs that this process starts.

    Args:
        connection: a unix socket.
        size: bytes of data at most.
        most: descriptors at most.

    Raises:
        OSError: as recvmsg(2); ``BlockingIOError`` nothing has arrived.
    """
    room = socket.CMSG_LEN(most * _DESCRIPTOR.size)
    data, ancillary, flags, _ = connection.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = [
        number
        for level, kind, packed in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in _DESCRIPTOR.iter_unpack(packed[: len(packed) - len(packed) % _DESCRIPTOR.size])
    ]
    return Received(data, descriptors, bool(flags & socket.MSG_CTRUNC))
