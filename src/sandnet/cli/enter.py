"""Turning this process into one that lives in a sandbox.

Apart from the kernel room, because the command line must not load that: it starts with a client's few
modules. What is here happens to the calling process only, and ends with it. Five system calls through
ctypes, since Python has ``os.setns`` and ``os.unshare`` from 3.12 on only, and ``mount`` never.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import NamedTuple, NoReturn

from sandnet.errors import Error, Kind

CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19  # linux/mount.h

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit statuses of a shell for a command it cannot run (POSIX.1, 2.8.2)."""

_libc = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """A sandbox as a process sees it."""

    key: str
    """Path at which its network namespace is pinned."""
    hosts: str = ""
    resolv_conf: str = ""


def enter(place: Place) -> None:
    """Move the calling thread into the sandbox's network, with a view of the file system that shows its names.

    The host's own /etc/hosts and /etc/resolv.conf stay as they are for everybody else.

    Raises:
        Error: ``UNAVAILABLE``, the kernel refuses; ``NOT_FOUND``, the sandbox is gone.
    """
    _enter_network(place.key)
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", "none", MS_REC | MS_SLAVE)  # nothing mounted from here on reaches the host
    _cover("/etc/hosts", place.hosts)
    _cover("/etc/resolv.conf", place.resolv_conf)
    with suppress(Error):  # refused where /sys is masked (a container): there it goes on showing the host's links
        _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def die_with(parent: int) -> None:
    """From now on the calling process is killed when its parent ends; ends at once if that has happened already."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def execute(command: tuple[str, ...]) -> NoReturn:
    """Become the command (found on PATH, no shell); ends with 126 or 127 and a message when that fails."""
    # Python ignores these two, and what is ignored stays ignored across exec.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 (no shell is the point)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sandnet: cannot run {command[0]}: {getattr(error, 'strerror', None) or error}\n")
        sys.stderr.flush()
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError | ValueError) else NOT_EXECUTABLE)


def _enter_network(key: str) -> None:
    try:
        namespace = os.open(key, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = "run the command on the daemon's host, with the daemon's rights"
        raise Error(Kind.NOT_FOUND, f"cannot open the sandbox at {key}: {error.strerror}", hint) from error
    try:
        _call("setns", namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)


def _cover(path: str, with_file: str) -> None:
    if not with_file or not os.path.exists(with_file):
        return
    if not os.path.exists(path):
        sys.stderr.write(f"sandnet: this host has no {path} to put the sandbox's in place of\n")
        return
    _mount(with_file, path, "none", MS_BIND)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        reason = os.strerror(ctypes.get_errno())
        hint = "entering a sandbox takes root, or the user namespace the daemon runs in"
        raise Error(Kind.UNAVAILABLE, f"{name}: {reason}", hint, "cannot_enter")
