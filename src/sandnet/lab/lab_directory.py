"""The directory of a lab: its lock, its control socket, and the files of its hosts.

All labs are below one directory that belongs to root alone. A lab exists while its supervisor holds the lock; a
directory without a holder is what a killed lab has left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.lab.lab_spec import check_name
from sandnet.serving.unix_socket import check_private

BASE_VARIABLE: Final = "SANDNET_LAB_DIR"
DEFAULT_BASE: Final = "/var/lib/sandnet-lab"
DEFAULT_NAME: Final = "lab"
"""The lab that commands mean when none is named."""
CONTROL, LOCK, LOG = "control", "lock", "supervisor.log"
_REMOVAL_DEADLINE: Final = 5.0
"""Seconds in which the kernel ends the last processes that write into a directory."""


def base() -> Path:
    """Return the directory of all labs."""
    return Path(os.environ.get(BASE_VARIABLE) or DEFAULT_BASE)


def make_base() -> None:
    """Make the directory of all labs, or refuse one in which others could replace files.

    Raises:
        Error: ``INVALID``; ``UNAVAILABLE``, it cannot be made.
    """
    try:
        base().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as failure:
        message = f"cannot make {base()}: {failure.strerror}"
        raise Error(Kind.UNAVAILABLE, message, f"set ${BASE_VARIABLE} to another directory") from failure
    check_private(str(base()))


class LabDirectory:
    """The directory of one lab."""

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        self.path = base() / name

    @property
    def log(self) -> Path:
        """The supervisor's log."""
        return self.path / LOG

    def exists(self) -> bool:
        """Return whether there are files, of a lab or of what was one."""
        return self.path.is_dir() and not self.path.is_symlink()

    def is_held(self) -> bool:
        """Return whether a supervisor holds the lock."""
        try:
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def claim(self) -> int:
        """Make the directory and return a descriptor that holds its lock; what a killed lab has left is removed.

        Raises:
            Error: ``CONFLICT``, a lab of this name exists.
        """
        make_base()
        for _ in range(2):
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise self._exists() from None
            if self._is_new(lock):
                return lock
            self.remove()  # while its lock is held: no other command removes the files of a new lab
            os.close(lock)
        raise self._exists()

    def _is_new(self, lock: int) -> bool:
        """Return whether there is nothing but this lock; not if the directory was replaced since it was opened."""
        with suppress(FileNotFoundError):
            same = os.path.samestat(os.fstat(lock), os.stat(self.path / LOCK, follow_symlinks=False))
            return same and os.listdir(self.path) == [LOCK]
        return False

    def _exists(self) -> Error:
        flag = "" if self.name == DEFAULT_NAME else f" --name {self.name}"
        hint = f"look at it: sandnet lab status{flag}; remove it: sandnet lab down{flag}; or take another --name"
        return Error(Kind.CONFLICT, f"the lab {self.name} exists already", hint, "lab_exists")

    def remove(self) -> None:
        """Remove the files. Processes that the kernel is about to end may still write some: those too.

        Raises:
            Error: ``UNAVAILABLE``, something keeps adding files, or the file system refuses.
        """
        deadline = time.monotonic() + _REMOVAL_DEADLINE
        while True:
            try:
                shutil.rmtree(self.path)  # follows no symlink (its avoids_symlink_attacks is true on Linux)
            except FileNotFoundError:
                return
            except OSError as failure:
                if time.monotonic() > deadline:
                    raise Error(Kind.UNAVAILABLE, f"cannot remove {self.path}: {failure}") from failure
                time.sleep(0.02)


def lab_names() -> list[str]:
    """Return the names of all labs, and of what killed labs have left."""
    if not base().is_dir():
        return []
    check_private(str(base()))
    return sorted(entry.name for entry in os.scandir(base()) if entry.is_dir(follow_symlinks=False))
