"""One resolver for a run directory: who may serve its socket, and how a new release takes over from an old one.

The new process moves the old one's socket aside and serves in its place, while the old one goes on answering
in the sandboxes. Only when the new one has been told all names does it ask the old one to end. Whatever is
killed in between, the old one can be found by its socket and asked again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sandnet.dns.protocol import FORMER_SOCKET, SOCKET, Hello, Stop, Welcome, exchange
from sandnet.errors import Error

_LOCK: Final = "dns.lock"
_PATIENCE: Final = 2.0
"""Seconds a living resolver may take to answer."""
_BACKLOG: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid (unix(7))."""


def claim(run_dir: str, release: str) -> socket.socket | None:
    """A listening socket at ``<run_dir>/dns.sock`` (0600); ``None``: a resolver of this release serves there.

    One of another release is moved aside, one that does not answer is killed.

    Raises:
        OSError: the directory cannot be used.
    """
    path = os.path.join(run_dir, SOCKET)
    with _locked(os.path.join(run_dir, _LOCK)):
        found = _release_at(path)
        if found == release:
            return None
        if found is not None:
            stop_former(run_dir)
            os.rename(path, os.path.join(run_dir, FORMER_SOCKET))
        with suppress(FileNotFoundError):
            os.unlink(path)
        return _listening(path)


def stop_former(run_dir: str) -> None:
    """Ask the resolver that was moved aside to answer what it has and end; none: success. Blocks up to 2 s."""
    path = os.path.join(run_dir, FORMER_SOCKET)
    with suppress(OSError, Error), _connected(path) as connection:
        exchange(connection, Hello(""))
        exchange(connection, Stop(drain=True))
    with suppress(FileNotFoundError):
        os.unlink(path)


def give_up(run_dir: str, inode: int) -> None:
    """Remove the socket's file on the way out, unless a successor has put its own there."""
    path = os.path.join(run_dir, SOCKET)
    with suppress(FileNotFoundError), _locked(os.path.join(run_dir, _LOCK)):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Two resolvers that start together do not both find the place empty."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _release_at(path: str) -> str | None:
    """The release of the resolver that serves there; ``None`` when none does (any more)."""
    try:
        with _connected(path) as connection:
            try:
                welcome = exchange(connection, Hello(""))
                return welcome.release if isinstance(welcome, Welcome) else ""
            except (OSError, Error):
                _kill_peer(connection)
    except (FileNotFoundError, ConnectionError):
        return None
    return None


def _kill_peer(connection: socket.socket) -> None:
    """End a resolver that hangs: its sockets would take a share of the questions and answer none."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(raw)
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_PATIENCE)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # never a moment in which others may connect
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
