"""Single instance: one daemon per state directory, per run directory and per network namespace."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandnet.config import Config
from sandnet.errors import Error, Kind
from sandnet.kernel.capabilities import CAP_NET_ADMIN
from sandnet.serving.unix_socket import check_private

_log = logging.getLogger(__name__)

_CLAIM = "\0sandnet"
"""Abstract socket name (unix(7))."""
_SO_PEERPIDFD = 77
"""Socket option (``asm-generic/socket.h``): a descriptor of the process that listens."""
PID_FILE = "sandnet.pid"
STOP_DEADLINE = 30.0
"""Seconds to wait for a running daemon to stop."""


@contextmanager
def only_one(config: Config) -> Iterator[None]:
    """Ensure one daemon per state directory, per run directory and per network namespace.

    Directories have file locks, and the namespace an abstract socket. The run directory's lock still shows a daemon if
    another program has removed the state directory with its lock.

    Raises:
        Error: ``CONFLICT`` when another daemon runs; ``UNAVAILABLE`` when a directory cannot be written to,
            ``INVALID`` when other users can write to it.
    """
    with _claimed_namespace(), _locked_state(config), _locked(config.run_dir, _pid_file(config), 0o644) as fd:
        try:
            with _usable(config.run_dir):
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()}\n".encode())
            yield
        finally:
            Path(_pid_file(config)).unlink(missing_ok=True)


@contextmanager
def _usable(directory: str) -> Iterator[None]:
    """Convert an OSError of the block into an error about the directory, which cannot be written to."""
    try:
        yield
    except OSError as failure:
        message = f"cannot write in {directory}: {failure.strerror or failure}"
        hint = "make room, or mount it writable; or name another directory (--state-dir, --run-dir)"
        raise Error(Kind.UNAVAILABLE, message, hint, "directory_unusable") from failure


@contextmanager
def _locked_state(config: Config) -> Iterator[None]:
    with _usable(config.run_dir):
        Path(config.run_dir).mkdir(mode=0o755, parents=True, exist_ok=True)
    with _usable(config.state_dir):
        Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (config.run_dir, config.state_dir):
            check_private(folder)
    with _locked(config.state_dir, lock_file(config), 0o600):
        yield


@contextmanager
def _locked(directory: str, path: str, mode: int) -> Iterator[int]:
    """Hold the lock of a file in that directory; create the file if it does not exist."""
    with _usable(directory):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        if not _try_lock(fd):
            hint = "stop it first, or give this one directories of its own"
            raise Error(Kind.CONFLICT, f"another daemon uses {directory}", hint, "daemon_running")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _claimed_namespace() -> Iterator[None]:
    """Hold an abstract socket name: it belongs to the network namespace (unix(7)), as does what sandnet manages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(_CLAIM)
            claim.listen()
        except OSError as failure:
            if _claimed_by_us():
                message = "another sandnet daemon manages this host's network"
                hint = "stop it first: two of them would take each other's rules for strays"
                raise Error(Kind.CONFLICT, message, hint, "daemon_running") from failure
            _log.warning("the name %s is held by a process that is none of ours; going on without it", _CLAIM[1:])
        yield


def _claimed_by_us() -> bool:
    """Return whether the name may be held by a daemon of our user; any process can bind it, to keep us from starting.

    The user alone is no proof: root of a confined container is uid 0 without capabilities. A daemon has
    ``CAP_NET_ADMIN``, and a process with it here could remove our rules just as well.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(_CLAIM)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _gid = struct.unpack("3i", credentials)
            return uid == os.geteuid() and _may_manage_network(probe, pid)
        except OSError:
            return False


def _may_manage_network(peer: socket.socket, pid: int) -> bool:
    """Return whether the listening process has the capability; false if it has ended, even if its pid is reused."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    capable = found is not None and bool(int(found[1], 16) >> CAP_NET_ADMIN & 1)
    try:
        process = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as failure:  # before Linux 6.5 the pid has to suffice; since then: the process has ended
        return capable and failure.errno == errno.ENOPROTOOPT
    try:
        signal.pidfd_send_signal(process, 0)
    finally:
        os.close(process)
    return capable


def lock_file(config: Config) -> str:
    """Return the path of the file whose lock a running daemon holds."""
    return os.path.join(config.state_dir, "lock")


def _pid_file(config: Config) -> str:
    """Return the path of the file with a running daemon's pid; the daemon holds its lock, too."""
    return os.path.join(config.run_dir, PID_FILE)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stop_running(config: Config) -> None:
    """Request the daemon of these directories to stop, and wait until it has."""
    try:
        pid = int(Path(_pid_file(config)).read_text())
        watched = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    try:
        if _is_running(config):
            signal.pidfd_send_signal(watched, signal.SIGTERM)
            _wait_until_ended(watched)
    finally:
        os.close(watched)


def _is_running(config: Config) -> bool:
    """Return whether a running daemon holds a directory: a pid file alone may be stale, its number reused."""
    return _is_locked(lock_file(config)) or _is_locked(_pid_file(config))


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _wait_until_ended(process: int) -> None:
    """Wait until a process has exited: it holds its claim on the network a moment longer than its locks."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(STOP_DEADLINE * 1000):
        raise Error(Kind.UNAVAILABLE, f"the daemon has not stopped in {STOP_DEADLINE:.0f} s", code="daemon_running")
