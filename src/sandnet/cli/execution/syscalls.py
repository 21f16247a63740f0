"""The system calls that move the calling process into a sandbox.

They use ctypes: Python has ``os.setns`` and ``os.unshare`` from 3.12 on only, and has no ``mount``. They are
apart from the kernel room, because a command line that imports it starts too slowly.
"""

from __future__ import annotations

import ctypes
import os

from sandnet.errors import Error, Kind

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32  # linux/mount.h
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system (mount(2)).

    Raises:
        Error: as :func:`call`.
    """
    data = options.encode() if options else None
    call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data)


def call(name: str, *arguments: object) -> None:
    """Call a function of libc that returns 0 on success.

    Raises:
        Error: ``UNAVAILABLE``, it failed; the message has the reason.
    """
    if getattr(_libc, name)(*arguments) != 0:
        reason = os.strerror(ctypes.get_errno())
        hint = "entering a sandbox takes root, or the user namespace the daemon runs in"
        raise Error(Kind.UNAVAILABLE, f"{name}: {reason}", hint, "cannot_enter")
