"""One request to a plugin and its answer, within a deadline and a limit of bytes. It blocks: it runs on a thread."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final, NamedTuple

from sandnet.drivers.remote.discovery import PluginAddress
from sandnet.http_exchange import Answer, request

MOST_BYTES: Final = 1 << 20
"""Limit of an answer with its headers."""
_UCRED: Final = struct.Struct("=iii")


class PluginAnswer(NamedTuple):
    """The answer to one request."""

    status: int
    body: bytes


class _LimitedSocket(socket.socket):
    """A socket whose reads end at a deadline, whatever trickles in, and after a number of bytes."""

    deadline = 0.0
    left = MOST_BYTES

    def recv(self, count: int, flags: int = 0, /) -> bytes:
        """Receive; see :meth:`socket.socket.recv`.

        Raises:
            OSError: also when too much has arrived.
        """
        self.settimeout(remaining(self.deadline))
        piece = super().recv(count, flags)
        self.left -= len(piece)
        if self.left < 0:
            raise ConnectionResetError(f"its answer is longer than {MOST_BYTES} bytes")
        return piece


def remaining(deadline: float) -> float:
    """Return the seconds until a deadline.

    Raises:
        TimeoutError: it is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it does not answer in time")
    return left


def exchange(address: PluginAddress, verb: str, payload: bytes, deadline: float) -> PluginAnswer:
    """Send a request and return the answer.

    Args:
        address: the plugin's.
        verb: ``NetworkDriver.Join`` and so on.
        payload: a JSON document; empty: the request has no body.
        deadline: by the monotonic clock.

    Raises:
        OSError: the plugin is away, silent (``TimeoutError``), or sends no HTTP or too much of it.
    """
    family = socket.AF_UNIX if address.path else _family(address)
    with _LimitedSocket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.deadline = deadline
        connection.settimeout(remaining(deadline))
        connection.connect(address.path or (address.host, address.port))
        if address.path:
            _check_peer(connection)
        connection.sendall(request("POST", f"/{verb}", "plugin", payload or None))
        answer = Answer(connection)
        return PluginAnswer(answer.status, answer.read())


def _family(address: PluginAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _check_peer(connection: socket.socket) -> None:
    """Refuse a listener that is not root's: the socket's file may have been replaced since it was checked."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(credentials)
    if pid == os.getpid():
        raise PermissionError("it is this daemon itself")
    if uid != 0:
        raise PermissionError(f"it belongs to user {uid}, not to root")
