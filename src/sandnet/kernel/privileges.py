"""Giving up what a process of root's may do beyond its task (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Final

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_VERSION: Final = 0x20080522
"""``_LINUX_CAPABILITY_VERSION_3``: two words of 32 bits a set."""
_WORDS: Final = 2
_HIGHEST: Final = "/proc/sys/kernel/cap_last_cap"


class Capability(IntEnum):
    """Those that are kept somewhere; numbers from ``linux/capability.h``."""

    NET_BIND_SERVICE = 10
    SYS_ADMIN = 21


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(kept: Iterable[Capability]) -> None:
    """Give up all capabilities but these, for this process and what it starts, for good.

    Call it before there are other threads: capabilities belong to a thread, and those to come inherit them.

    Raises:
        OSError: the kernel refuses.
    """
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    wanted = set(kept)
    with open(_HIGHEST) as file:
        highest = int(file.read())
    with suppress(PermissionError):  # who started us took the right to do this, and may have done it
        for number in set(range(highest + 1)) - wanted:
            _call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    header, words = _Header(_VERSION, 0), (_Word * _WORDS)()
    _call("capget", ctypes.byref(header), words)
    for index, word in enumerate(words):
        mask = sum(1 << number % 32 for number in wanted if number // 32 == index)
        word.effective = word.permitted = word.permitted & mask
        word.inheritable = 0
    _call("capset", ctypes.byref(header), words)


def _call(function: str, *arguments: object) -> None:
    if getattr(_libc, function)(*arguments) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
