"""System calls that Python 3.11 does not offer, and the one safe way into a network namespace and back.

Numbers are from ``linux/sched.h``, ``linux/mount.h``, ``linux/prctl.h`` and ``linux/nsfs.h``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

CLONE_NEWNET: Final = 0x40000000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"
"""The calling thread's network namespace; ``/proc/self`` would be the main thread's."""

_MNT_DETACH: Final = 0x2
_UMOUNT_NOFOLLOW: Final = 0x8
_NS_GET_NSTYPE: Final = 0xB703
_PR_SET_PDEATHSIG: Final = 1
_EX_OSERR: Final = 71

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


class NotANetworkNamespaceError(Exception):
    """The file exists and is no network namespace."""


def _check(result: int) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unshare_network() -> None:
    """Put the calling thread into a new network namespace.

    Raises:
        OSError: no privilege, or the limit ``user.max_net_namespaces`` is reached (``ENOSPC``).
    """
    _check(_libc.unshare(CLONE_NEWNET))


def unshare(flags: int) -> None:
    """Put the calling thread into new namespaces of these kinds; of ``CLONE_NEWPID`` its next child is the first.

    Raises:
        OSError: no privilege, or a limit of namespaces is reached (``ENOSPC``).
    """
    _check(_libc.unshare(flags))


def set_namespace(namespace: int, kind: int) -> None:
    """Put the calling thread into the namespace that a descriptor refers to; with ``CLONE_NEWPID``, its next child.

    Raises:
        OSError: no privilege, or the namespace is of another kind.
    """
    _check(_libc.setns(namespace, kind))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system, or change a mount (mount(2)).

    Raises:
        OSError: the kernel refuses.
    """
    names = os.fsencode(source), os.fsencode(target), kind.encode() or None
    _check(_libc.mount(*names, flags, options.encode() or None))


def request_parent_death_signal() -> None:
    """Let the kernel kill the calling process when its parent thread ends (``PR_SET_PDEATHSIG``)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def bind_mount(source: str, target: str) -> None:
    """Make the file ``source`` appear at the existing file ``target``."""
    mount(source, target, "", MS_BIND)


def unmount(target: str) -> None:
    """Remove the topmost mount from ``target``, even if it is in use; a symlink there is not followed."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW))


@cache
def _namespace_device() -> int:
    return os.stat(OWN_NAMESPACE).st_dev


def open_namespace(path: str, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Return a descriptor of the network namespace at ``path``; the caller closes it.

    The kind of file is checked before it is opened for reading: opening a device or a pipe that another program put
    there would already have an effect.

    Args:
        path: a file of the kind ``/proc/PID/ns/net``, or one on which such a file is mounted.
        dir_fd: directory that a relative ``path`` starts from.
        follow: whether the last part of ``path`` may be a symlink (all of ``/proc/PID/ns`` is).

    Raises:
        OSError: the file does not exist, or we may not open it.
        NotANetworkNamespaceError: it is no network namespace.
    """
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    handle = os.open(path, flags, dir_fd=dir_fd)
    try:
        if os.fstat(handle).st_dev != _namespace_device():
            raise NotANetworkNamespaceError(path)
        namespace = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)
    if fcntl.ioctl(namespace, _NS_GET_NSTYPE) != CLONE_NEWNET:
        os.close(namespace)
        raise NotANetworkNamespaceError(path)
    return namespace


@contextmanager
def opened_namespace(path: str, *, dir_fd: int | None = None, follow: bool = False) -> Iterator[int]:
    """Yield :func:`open_namespace`, and close it after the ``with`` block."""
    namespace = open_namespace(path, dir_fd=dir_fd, follow=follow)
    try:
        yield namespace
    finally:
        os.close(namespace)


@contextmanager
def restoring_namespace() -> Iterator[int]:
    """Return the thread to its network namespace after the block; yield a descriptor of that namespace.

    A worker left in a sandbox would next do the host's work there and the sandbox's on the host. So when the return
    fails, the whole process ends at once; the restore at the next start repairs what it left unfinished.
    """
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield home
    finally:
        if _libc.setns(home, CLONE_NEWNET) == -1:
            reason = os.strerror(ctypes.get_errno())
            os.write(2, f"sandnet: cannot return to the host's network namespace ({reason}); ending\n".encode())
            os._exit(_EX_OSERR)
        os.close(home)


@contextmanager
def in_namespace(namespace: int) -> Iterator[None]:
    """Run the block with the calling thread in ``namespace``."""
    with restoring_namespace():
        _check(_libc.setns(namespace, CLONE_NEWNET))
        yield


def is_namespace(path: str, inode: int) -> bool:
    """Return whether the file at ``path`` is the network namespace with that inode number.

    The file is not opened: this check is made every second, for each namespace without a process.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == (os.stat(OWN_NAMESPACE).st_dev, inode)
