"""Kernel parameters, as files below ``/proc/sys`` (Documentation/admin-guide/sysctl).

Those below ``net`` belong to the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.base import Sysctl
from sandnet.kernel.validation import check_name

_ROOT: Final = "/proc/sys"
_MAX_VALUE: Final = 4096
"""Bytes read; none of our parameters is nearly as long (the kernel's own limit for most is a page)."""


class ProcSysctl:
    """Kernel parameters below one directory."""

    def __init__(self, root: str = _ROOT) -> None:
        self._root = root

    def get(self, name: str) -> str | None:
        """See :meth:`sandnet.kernel.base.Sysctl.get`.

        Raises:
            Error: ``INVALID`` when ``name`` is no path below the directory, ``UNAVAILABLE`` when it cannot be read.
        """
        path = self._path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                return file.read(_MAX_VALUE).decode(errors="replace").strip()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise Error(Kind.UNAVAILABLE, f"cannot read sysctl {name}: {error.strerror}") from error

    def is_writable(self, name: str) -> bool:
        """See :meth:`sandnet.kernel.base.Sysctl.is_writable`.

        Raises:
            Error: ``INVALID`` when ``name`` is no path below the directory.
        """
        return os.access(self._path(name), os.W_OK)

    def set(self, name: str, value: str) -> None:
        """See :meth:`sandnet.kernel.base.Sysctl.set`.

        Raises:
            Error: besides, ``INVALID`` when ``name`` is no path below the directory or the kernel refuses the value.
        """
        path = self._path(name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd, f"{value}\n".encode())
            finally:
                os.close(fd)
        except OSError as error:
            kind = Kind.INVALID if error.errno in (errno.EINVAL, errno.ERANGE) else Kind.UNAVAILABLE
            raise Error(kind, f"cannot set sysctl {name} to {value!r}: {error.strerror}") from error

    def _path(self, name: str) -> str:
        check_name(name)
        return f"{self._root}/{name}"


def set_where_different(sysctl: Sysctl, name: str, value: str) -> None:
    """Set a parameter unless it has the value: ``/proc/sys`` may be read-only. A missing parameter is skipped.

    Raises:
        Error: as :meth:`sandnet.kernel.base.Sysctl.set`.
    """
    if sysctl.get(name) not in (None, value):
        sysctl.set(name, value)
