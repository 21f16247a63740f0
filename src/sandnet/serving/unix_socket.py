"""The daemon's unix socket: a client with write access is root here, so its directory and its mode are checked."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from sandnet.errors import Error, Kind

_log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
GROUP = "sandnet"
"""Members of this group may use the socket, if the group exists."""


def open_unix(path: str, backlog: int) -> socket.socket:
    """Return a listening socket at ``path``: for root and the group ``sandnet`` (0660), or root alone without a group.

    Raises:
        Error: ``CONFLICT`` when the path is taken, ``INVALID`` when other users may write to its directory.
    """
    folder = os.path.dirname(path)
    Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    check_private(folder, sticky=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # bind gives the file this mode: other users have no access at any moment
        listener.bind(path)
        _give_to_group(path)
        listener.listen(backlog)
    except OSError as failure:
        listener.close()
        raise Error(Kind.CONFLICT, f"cannot listen on {path}: {failure.strerror}", code="socket_taken") from failure
    listener.setblocking(False)
    return listener


def check_private(folder: str, *, sticky: bool = False) -> None:
    """Check that no other user can replace files in a directory.

    Args:
        folder: an existing directory; a symlink at its end is refused.
        sticky: accept a directory in which users cannot touch the files of others (``/tmp``).

    Raises:
        Error: ``INVALID``, code ``directory_not_private``.
    """
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as failure:
        raise _not_private(folder, failure.strerror or "") from failure
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    if sticky and info.st_mode & stat.S_ISVTX:
        return
    if info.st_uid not in (0, os.geteuid()):
        raise _not_private(folder, f"it belongs to user {info.st_uid}")
    foreign_group = info.st_gid not in (0, os.getegid())
    if info.st_mode & (0o022 if foreign_group else 0o002):
        raise _not_private(folder, "others may write to it")


def _not_private(folder: str, reason: str) -> Error:
    hint = f"a user who can replace the files there is root here: chown root {folder}; chmod 755 {folder}"
    return Error(Kind.INVALID, f"the directory {folder} cannot be used: {reason}", hint, "directory_not_private")


def _give_to_group(path: str) -> None:
    """Change group and mode of the socket itself, even if its name leads elsewhere by now."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.EEXIST, "something else was put in its place")
        handle = f"/proc/self/fd/{fd}"
        try:
            os.chown(handle, -1, grp.getgrnam(GROUP).gr_gid)
        except (KeyError, OSError) as failure:
            reason = "there is no such group" if isinstance(failure, KeyError) else failure.strerror
            _log.info("%s is for root only, not for the group %s: %s", path, GROUP, reason)
        os.chmod(handle, SOCKET_MODE)
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    """Remove a socket without a listener: a daemon that was killed left it behind."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Error(Kind.CONFLICT, f"{path} exists and is no socket", "name another path", "socket_taken")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with suppress(BlockingIOError):  # a full queue: a process listens
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
    raise Error(Kind.CONFLICT, f"another process serves {path}", "stop it, or listen elsewhere with -H", "socket_taken")
