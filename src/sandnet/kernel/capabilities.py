"""Drops the privileges of root that a process does not need for its task (capabilities(7))."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from sandnet.kernel.syscalls import request_parent_death_signal

CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
CAP_SYS_ADMIN: Final = 21

_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_VERSION: Final = 0x20080522
"""``_LINUX_CAPABILITY_VERSION_3``: two words of 32 bits a set."""
_WORDS: Final = 2
_HIGHEST: Final = "/proc/sys/kernel/cap_last_cap"
_OOM_SCORE: Final = "/proc/self/oom_score_adj"


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(user: str, fallback: int) -> int:
    """Drop root and all capabilities for good, for this process and its children.

    Call it before there are other threads: privileges belong to a thread, and later threads inherit them.

    Args:
        user: the user to become, with that user's own group and no other.
        fallback: number of the user and group to become where there is no such user.

    Returns:
        The user that the process is now. It is the old one where it may not become another: in a user namespace that
            knows only one user (user_namespaces(7)), or without ``CAP_SETUID``.

    Raises:
        OSError: the kernel refuses to drop capabilities.
    """
    _limit_to(())
    if os.geteuid() == 0:
        with suppress(OSError):
            _become(*_ids(user, fallback))
    header, words = _Header(_VERSION, 0), (_Word * _WORDS)()
    _call("capset", ctypes.byref(header), words)
    return os.geteuid()


def keep_capabilities(kept: Collection[int]) -> None:
    """Drop all capabilities but these for good, for this process and its children; it stays the same user.

    Args:
        kept: numbers of capabilities (``linux/capability.h``); those that the process does not have are not gained.

    Raises:
        OSError: the kernel refuses to drop capabilities.
    """
    _limit_to(kept)
    header, words = _Header(_VERSION, 0), (_Word * _WORDS)()
    _call("capget", ctypes.byref(header), words)
    for at, word in enumerate(words):
        mask = sum(1 << (number % 32) for number in kept if number // 32 == at)
        word.permitted &= mask
        word.effective = word.permitted
        word.inheritable = 0
    _call("capset", ctypes.byref(header), words)


def become_with_capabilities(user: str, fallback: int, kept: Collection[int], folder: int) -> None:
    """Become a user for good that has these capabilities and no other, and keeps them in programs that it executes.

    Where the process may not become another user, as :func:`drop_privileges`, it stays the same one.

    Args:
        user: as of :func:`drop_privileges`.
        fallback: the same.
        kept: numbers of capabilities that the process has.
        folder: descriptor of a directory that becomes the user's.

    Raises:
        OSError: the kernel refuses to drop capabilities, or the process lacks one.
    """
    _limit_to(kept)
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        uid, gid = _ids(user, fallback)
        with suppress(OSError):
            _become(uid, gid, folder)
    header, words = _Header(_VERSION, 0), (_Word * _WORDS)()
    for at, word in enumerate(words):
        mask = sum(1 << (number % 32) for number in kept if number // 32 == at)
        word.permitted = word.effective = word.inheritable = mask
    _call("capset", ctypes.byref(header), words)
    for number in kept:
        _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2)).

    Raises:
        ProcessLookupError: the parent has ended before.
    """
    parent = os.getppid()
    request_parent_death_signal()
    if os.getppid() != parent:
        raise ProcessLookupError


def _limit_to(kept: Collection[int]) -> None:
    """Give up all privileges that a later ``exec`` could gain, and all capabilities but these from the bounding set."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with open(_HIGHEST) as file:
        highest = int(file.read())
    with suppress(PermissionError):  # the parent may have dropped the right to do this, or done it
        for number in range(highest + 1):
            if number not in kept:
                _call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)


def raise_oom_score() -> None:
    """Drop the protection from the kernel's out-of-memory killer that the parent process has (proc(5))."""
    with suppress(OSError, ValueError), open(_OOM_SCORE, "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def _ids(user: str, fallback: int) -> tuple[int, int]:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return fallback, fallback
    return found.pw_uid, found.pw_gid


def _become(uid: int, gid: int, folder: int | None = None) -> None:
    """Become a user. A namespace that does not know the user is detected before anything has changed.

    Args:
        uid: the user.
        gid: the user's group.
        folder: descriptor of a directory that becomes the user's; ``None``: none.
    """
    if not (_is_mapped("uid", uid) and _is_mapped("gid", gid)):
        raise OSError(errno.EINVAL, "no such user in this user namespace")
    if folder is not None:
        os.fchown(folder, uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _is_mapped(kind: str, number: int) -> bool:
    with open(f"/proc/self/{kind}_map") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    return any(first <= number < first + count for first, _, count in ranges)


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
