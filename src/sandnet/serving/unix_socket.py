"""The daemon's unix socket: whoever may write to it is root here, so its place and its mode are looked at closely."""

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
"""Whoever is in this group may use the socket, where the group exists."""


def open_unix(path: str, backlog: int) -> socket.socket:
    """A listening socket at ``path``: root's and the group ``sandnet``'s, 0660; root's alone where that group is not.

    Raises:
        Error: ``CONFLICT`` when something is there, ``INVALID`` when others may write to its directory.
    """
    folder = os.path.dirname(path)
    Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    check_private(folder, sticky=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # bind gives this mode to the file: never a moment in which others may
        listener.bind(path)
        _give_to_group(path)
        listener.listen(backlog)
    except OSError as failure:
        listener.close()
        raise Error(Kind.CONFLICT, f"cannot listen on {path}: {failure.strerror}", code="socket_taken") from failure
    listener.setblocking(False)
    return listener


def check_private(folder: str, *, sticky: bool = False) -> None:
    """Make sure that nobody else can put things into a directory, in the place of ours.

    Args:
        folder: an existing directory; a symlink at its end is refused.
        sticky: a directory in which others cannot touch what is not theirs (``/tmp``) will do.

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
    hint = f"whoever can replace the files there is root here: chown root {folder}; chmod 755 {folder}"
    return Error(Kind.INVALID, f"the directory {folder} cannot be used: {reason}", hint, "directory_not_private")


def _give_to_group(path: str) -> None:
    """Change owner and mode of the socket itself, whatever its name may lead to by now."""
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
    """A socket nobody answers on was left by a daemon that was killed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Error(Kind.CONFLICT, f"{path} exists and is no socket", "name another path", "socket_taken")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        with suppress(BlockingIOError):  # a full queue: somebody is there
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
    raise Error(Kind.CONFLICT, f"another process serves {path}", "stop it, or listen elsewhere with -H", "socket_taken")
