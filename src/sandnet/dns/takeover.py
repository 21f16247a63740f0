"""One resolver for a run directory: its control socket, and the handover from an old release to a new one.

The daemon creates the control socket, so the resolver needs no permission for the directory. The socket of an old
resolver is renamed first. The old resolver keeps answering in the sandboxes, shares its sockets, and exits when the new
one has all names and sockets. If any of the processes is killed in between, the old resolver is found by its socket,
and the handover is repeated.
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
"""Seconds that a working resolver may take to answer."""
BACKLOG: Final = 16
"""Pending connections to the resolver. The resolver calls listen again, so that it becomes the peer (unix(7))."""
_PROGRAM: Final = b"sandnet.resolver"
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid (unix(7))."""


class OpenedSockets(NamedTuple):
    """Sockets in one client's namespace."""

    inode: int
    """Inode of the namespace; 0: the host's."""
    listening: tuple[socket.socket, ...] = ()
    """The UDP and the TCP socket that receive its questions, or none."""
    asking: tuple[socket.socket, ...] = ()
    """Unconnected sockets for questions to its upstream servers."""

    def passed(self, container_id: str) -> Passed:
        """Return the record that describes them when they are passed on."""
        return Passed(container_id, self.inode, listening=bool(self.listening), asking=len(self.asking))

    def close(self) -> None:
        """Close all sockets."""
        for each in (*self.listening, *self.asking):
            each.close()


def claim(run_dir: str, release: str) -> socket.socket | None:
    """Return a listening socket at ``<run_dir>/dns.sock`` (0600); ``None``: a resolver of this release serves there.

    The socket of a resolver of another release is renamed. A resolver that does not answer is killed. Only the one
    daemon of the run directory calls this.

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
    """Return whether there is a resolver that is being replaced."""
    return os.path.lexists(os.path.join(run_dir, FORMER_SOCKET))


def shared_by_former(run_dir: str) -> dict[str, OpenedSockets]:
    """Return the sockets of the resolver that is being replaced, by container. Blocks up to 2 s for each message.

    A resolver that does not share them (an older release) is stopped, so that new sockets can be opened at the same
    ports.
    """
    found: dict[str, OpenedSockets] = {}
    try:
        with _connected(os.path.join(run_dir, FORMER_SOCKET)) as connection:
            exchange(connection, Hello(""))
            more = True
            while more:
                more = _receive_shared(connection, found)
    except (OSError, Error):
        _end_former(run_dir)
    return found


def stop_former(run_dir: str) -> None:
    """Let the resolver that is being replaced answer its pending questions and exit. Blocks up to 2 s.

    If there is none, this does nothing.
    """
    path = os.path.join(run_dir, FORMER_SOCKET)
    with suppress(OSError, Error), _connected(path) as connection:
        exchange(connection, Hello(""))
        exchange(connection, Stop(drain=True))
    with suppress(FileNotFoundError):
        os.unlink(path)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id of the peer, at the time when it connected or listened."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _receive_shared(connection: socket.socket, found: dict[str, OpenedSockets]) -> bool:
    """Receive one message of shared sockets, and return whether there are more."""
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
    """Stop the resolver that is being replaced, and wait until its sockets are closed."""
    with suppress(OSError, Error), _connected(os.path.join(run_dir, FORMER_SOCKET)) as connection:
        exchange(connection, Hello(""))
        exchange(connection, Stop())
        connection.recv(1)  # returns when the resolver exits and its connection is closed


def _release_at(path: str) -> str | None:
    """Return the release of the resolver that serves at ``path``; ``None``: none does, or it was killed."""
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
    """Kill a resolver that hangs, and wait for its exit: its ports are in use until then."""
    pid, _ = peer_of(connection)
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            # before the resolver calls listen, the peer is the daemon that created the socket; its pid may be reused
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
        os.fchmod(listener.fileno(), 0o600)  # bind creates the file with this mode: no other user can ever connect
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
