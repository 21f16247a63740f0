"""Run a command under the restrictions of a systemd unit, without systemd: ``confined_daemon.py UNIT COMMAND...``.

It applies what a unit may take from a process: capabilities, new privileges, system calls, namespaces, address
families, writable code; and the priority that it may have. System call groups are those that ``systemd-analyze`` lists;
libseccomp, on which systemd depends, makes the filters.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 23, 24, 38, 65
"""``linux/prctl.h``."""
ALLOW: Final = 0x7FFF0000
EQUAL, MASKED_EQUAL = 4, 7
"""``seccomp.h``: the actions and comparisons used here."""
NAMESPACES: Final = {
    "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000,
}  # fmt: skip
"""Flags of clone(2)."""
CAPABILITIES: Final = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""In the order of their numbers (``linux/capability.h``)."""

_libc = ctypes.CDLL(None, use_errno=True)


class Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def settings(unit: Path) -> dict[str, list[str]]:
    """The words of each setting; assignments of one name are one list."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).extend(match[2].split())
    return found


@cache
def members(group: str) -> frozenset[str]:
    """The system calls of a group."""
    if not group.startswith("@"):
        return frozenset({group})
    printed = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    words = {line.strip() for line in printed.stdout.splitlines() if line.startswith(" ")}
    calls = {word for word in words if re.fullmatch(r"[a-z0-9_]+", word)}
    return frozenset(calls.union(*(members(word) for word in words if word.startswith("@"))))


def system_calls(words: Iterable[str]) -> frozenset[str]:
    """Those that the words allow: groups, less what has a tilde (one to a line of the unit)."""
    groups = [word for word in words if not word.startswith("~")]
    return frozenset().union(*map(members, groups)) - {word[1:] for word in words if word.startswith("~")}


class Filter:
    """A seccomp filter; what no rule names gets the default action."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_load.argtypes = (ctypes.c_void_p,)
        self._lib.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
        )  # fmt: skip
        self._context = self._lib.seccomp_init(default)

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        array = (Comparison * len(comparisons))(*comparisons)
        if number >= 0 and self._lib.seccomp_rule_add_array(self._context, action, number, len(array), array) < 0:
            raise OSError(call)

    def load(self) -> None:
        if self._lib.seccomp_load(self._context) != 0:
            raise OSError("seccomp_load")


def failing(code: int) -> int:
    """The action that makes a system call fail."""
    return 0x50000 | code


def confine(unit: dict[str, list[str]]) -> None:
    """Take from this process what the unit takes from its service."""
    kept = {name.removeprefix("CAP_") for name in unit["CapabilityBoundingSet"]}
    if unit.get("NoNewPrivileges") == ["yes"]:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    nice = 20 - int(unit["LimitNICE"][0])  # setrlimit(2)
    with suppress(ValueError):  # not every machine lets its root raise a limit: CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_NICE, (nice, nice))
    filters = [_families(unit["RestrictAddressFamilies"]), _namespaces(unit["RestrictNamespaces"])]
    calls = system_calls(unit["SystemCallFilter"])
    os.umask(int(unit["UMask"][0], 8))
    for number, name in enumerate(CAPABILITIES):
        if name not in kept and _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(PR_CAPBSET_DROP, number)
    if unit.get("MemoryDenyWriteExecute") == ["yes"]:
        _libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # kernels older than 6.3 do not have it
    allowed = Filter(failing(errno.EPERM))
    for call in sorted(calls):
        allowed.add(ALLOW, call)
    for each in (*filters, allowed):
        each.load()


def _families(names: Iterable[str]) -> Filter:
    kept = {int(getattr(socket, name)) for name in names}
    made = Filter(ALLOW)
    for family in set(range(64)) - kept:
        made.add(failing(errno.EAFNOSUPPORT), "socket", Comparison(0, EQUAL, family, 0))
    return made


def _namespaces(names: Iterable[str]) -> Filter:
    made, refused = Filter(ALLOW), failing(errno.EPERM)
    for flag in {flag for name, flag in NAMESPACES.items() if name not in set(names)}:
        made.add(refused, "unshare", Comparison(0, MASKED_EQUAL, flag, flag))
        made.add(refused, "clone", Comparison(0, MASKED_EQUAL, flag, flag))
        made.add(refused, "setns", Comparison(1, MASKED_EQUAL, flag, flag))
    made.add(refused, "setns", Comparison(1, EQUAL, 0, 0))
    return made


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} {value}")


def main() -> NoReturn:
    """Confine this process and become the command."""
    confine(settings(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
