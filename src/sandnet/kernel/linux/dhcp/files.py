"""The files of DHCP clients, in a directory of root's.

``ID.client`` is root's: the client's process keeps it locked for its whole life, so it is known whether it runs even
after its number was reused, and a second one cannot be started. It has the number and the start time of the process.
``ID`` is a directory of the client's user, the current one of its process, which leaves its reports there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from sandnet.kernel.dhcp.base import DhcpReport
from sandnet.kernel.dhcp.offered_lease import read_lease
from sandnet.kernel.linux.dhcp.event_script import REPORT
from sandnet.model import Process

_SUFFIX: Final = ".client"
_MOST: Final = 16_384
"""Bytes read of a report."""
_MOMENT: Final = 0.2
"""Seconds."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Report(msgspec.Struct):
    event: str
    at: float
    values: dict[str, str]


class ClientFiles:
    """The files below one directory, which is made when it is needed."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def folder(self, client: str) -> str:
        """Return the path of a client's own directory."""
        return os.path.join(self._directory, client)

    def lock_path(self, client: str) -> str:
        """Return the path of the file that a client keeps locked."""
        return self.folder(client) + _SUFFIX

    def make(self, client: str) -> None:
        """Make the files of a client that is to be started; those that are there are kept."""
        os.makedirs(self._directory, mode=0o711, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.folder(client), 0o700)
        os.close(os.open(self.lock_path(client), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def remove(self, client: str) -> None:
        """Remove the files of a client that has ended."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder(client))
        with suppress(FileNotFoundError):
            os.unlink(self.lock_path(client))

    def list(self) -> list[str]:
        """Return the clients that have files."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted({name.removesuffix(_SUFFIX) for name in names})

    def process(self, client: str) -> Process | None:
        """Return the process that runs; ``None``: none does. One that is being started has the number 0."""
        try:
            descriptor = os.open(self.lock_path(client), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if _try_lock(descriptor, fcntl.LOCK_SH):
                return None
            words = os.read(descriptor, 64).split()
            return Process(int(words[0]), int(words[1])) if len(words) == 2 else Process(0, 0)
        finally:
            os.close(descriptor)

    @contextmanager
    def taken(self, client: str) -> Iterator[bool]:
        """Keep a client from being started in the block, which gets false if one runs."""
        try:
            descriptor = os.open(self.lock_path(client), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield True
            return
        try:
            yield _take(descriptor)
        finally:
            os.close(descriptor)

    def report(self, client: str) -> DhcpReport | None:
        """Return the last report of a client; ``None``: there is none, or it cannot be read."""
        try:
            content = _read(self.folder(client))
            found = msgspec.json.decode(content, type=_Report)
        except (OSError, msgspec.DecodeError):
            return None
        if not found.values:
            return DhcpReport(found.at, None)
        try:
            return DhcpReport(found.at, read_lease(found.values, found.at))
        except ValueError as failure:
            return DhcpReport(found.at, None, str(failure))


def lock_for_life(path: str) -> int:
    """Return a descriptor of the file, locked and inherited by programs that are executed.

    Raises:
        BlockingIOError: another process has locked it, or it was removed.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError as failure:
        raise BlockingIOError from failure
    os.set_inheritable(descriptor, True)
    if not _take(descriptor) or not os.fstat(descriptor).st_nlink:
        raise BlockingIOError
    return descriptor


def _take(descriptor: int) -> bool:
    """Lock a file; who only looks whether it is locked, locks it for a moment, too."""
    deadline = time.monotonic() + _MOMENT
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_MOMENT / 20)
    return True


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(folder: str) -> bytes:
    """Return the report; the client's user may have put something else in its place."""
    parent = os.open(folder, _FOLDER)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(REPORT, flags, dir_fd=parent)
    finally:
        os.close(parent)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_MOST) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
