"""One resolver for a run directory: where it is called, and how a new release takes over from an old one.

The daemon makes the socket at which it calls the resolver, so the resolver needs no right to the directory. The socket
of an old resolver is moved aside first. The old one goes on answering in the sandboxes, passes on its sockets, and ends
when the new one has been given all names and sockets. Whatever is killed in between, the old one can be found by its
socket and asked again.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from sandnet.dns.control_protocol import FORMER_SOCKET, SOCKET, Hello, Passed, Share, Shared, Stop, Welcome, exchange
from sandnet.errors import Error

_TIMEOUT: Final = 2.0
"""Seconds a resolver that works may take to answer."""
BACKLOG: Final = 16
"""Connections to the resolver that wait. The resolver listens once more, so that it is the peer (unix(7))."""
_PROGRAM: Final = b"sandnet.resolver"
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid (unix(7))."""


class OpenedSockets(NamedTuple):
    """Sockets in one asker's namespace."""

    inode: int
    """Of the namespace; 0: the host's."""
    listening: tuple[socket.socket, ...] = ()
    """The UDP and the TCP socket at which it asks, or none."""
    asking: tuple[socket.socket, ...] = ()
    """Unconnected ones, by which its servers are asked."""

    def passed(self, container_id: str) -> Passed:
        """What is said of them when they are passed on."""
        return Passed(container_id, self.inode, listening=bool(self.listening), asking=len(self.asking))

    def close(self) -> None:
        """Close all of them."""
        for each in (*self.listening, *self.asking):
            each.close()


def claim(run_dir: str, release: str) -> socket.socket | None:
    """A listening socket at ``<run_dir>/dns.sock`` (0600); ``None``: a resolver of this release serves there.

    One of another release is moved aside, one that does not answer is killed. Only the one daemon of the run directory
    calls this.

    Raises:
        OSError: the directory cannot be used.
    """
    path = os.path.join(run_dir, SOCKET)
    found = _release_at(path)
    if found == release:
        return None
    if found is not None:
        stop_former(run_dir)
        os.rename(path, os.path.join(run_dir, FORMER_SOCKET))
    with suppress(FileNotFoundError):
        os.unlink(path)
    return _listening(path)


def has_former(run_dir: str) -> bool:
    """Whether a resolver was moved aside."""
    return os.path.lexists(os.path.join(run_dir, FORMER_SOCKET))


def shared_by_former(run_dir: str) -> dict[str, OpenedSockets]:
    """The sockets of the resolver that was moved aside, by container. Blocks up to 2 s for each message.

    One that does not share them (an older release) is ended first, so that others can be opened in their place.
    """
    found: dict[str, OpenedSockets] = {}
    try:
        with _connected(os.path.join(run_dir, FORMER_SOCKET)) as connection:
            exchange(connection, Hello(""))
            more = True
            while more:
                more = _share(connection, found)
    except (OSError, Error):
        _end_former(run_dir)
    return found


def stop_former(run_dir: str) -> None:
    """Ask the resolver that was moved aside to answer what it has and end; none: success. Blocks up to 2 s."""
    path = os.path.join(run_dir, FORMER_SOCKET)
    with suppress(OSError, Error), _connected(path) as connection:
        exchange(connection, Hello(""))
        exchange(connection, Stop(drain=True))
    with suppress(FileNotFoundError):
        os.unlink(path)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as they were when it connected or listened."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _share(connection: socket.socket, found: dict[str, OpenedSockets]) -> bool:
    """Take one message of shared sockets; whether there are more."""
    sockets: list[socket.socket] = []
    reply = exchange(connection, Share(len(found)), sockets)
    if not isinstance(reply, Shared) or sum(each.count for each in reply.passed) != len(sockets):
        for each in sockets:
            each.close()
        return False
    rest = iter(sockets)
    for passed in reply.passed:
        listening = (next(rest), next(rest)) if passed.listening else ()
        asking = tuple(next(rest) for _ in range(passed.asking))
        found[passed.container_id] = OpenedSockets(passed.inode, listening, asking)
    return reply.more and bool(reply.passed)


def _end_former(run_dir: str) -> None:
    """End the resolver that was moved aside, and wait until its sockets are closed."""
    with suppress(OSError, Error), _connected(os.path.join(run_dir, FORMER_SOCKET)) as connection:
        exchange(connection, Hello(""))
        exchange(connection, Stop())
        connection.recv(1)  # it hangs up when it ends


def _release_at(path: str) -> str | None:
    """The release of the resolver that serves there; ``None`` when none does (any more)."""
    try:
        with _connected(path) as connection:
            try:
                welcome = exchange(connection, Hello(""))
                return welcome.release if isinstance(welcome, Welcome) else ""
            except (OSError, Error):
                _kill_peer(connection)
    except (FileNotFoundError, ConnectionError, TimeoutError):
        return None
    return None


def _kill_peer(connection: socket.socket) -> None:
    """End a resolver that hangs, and wait for it: as long as it lives, its ports are taken."""
    pid, _ = peer_of(connection)
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            # before the resolver listens itself, the peer is the daemon that made the socket, or had its number
            if _PROGRAM in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [], _TIMEOUT)
        finally:
            os.close(process)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # what bind makes has this mode: never a moment in which others may connect
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
