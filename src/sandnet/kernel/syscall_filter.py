"""A filter of the system calls that a process may make for the rest of its life (seccomp(2)), built by libseccomp.

It refuses what a program that answers questions on open sockets never does: start programs or processes, look into
other processes, create or change files, open sockets of other families, or use parts of the kernel that were often
attacked. Calls that are not named here stay allowed: which ones the C library and Python use differs between releases.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sandnet.prerequisites import SECCOMP_LIBRARY, install_command

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
"""``SCMP_ACT_ERRNO``; the error number is in the lower bits."""
_SYNCHRONISE_THREADS: Final = 4
"""``SCMP_FLTATR_CTL_TSYNC``."""
_OPTIMISE: Final = 8
_BINARY_TREE: Final = 2
"""Value of ``SCMP_FLTATR_CTL_OPTIMIZE``; libseccomp 2.5 and newer."""
_UNKNOWN_CALL: Final = -1
"""``__NR_SCMP_ERROR``: this release of libseccomp does not know the name."""
_NE, _LE, _EQ, _GE, _MASKED_EQ = 1, 3, 4, 5, 7
"""Members of ``enum scmp_compare``."""
_CLONE_THREAD: Final = 0x10000  # linux/sched.h

_NO_FILTER: Final = "the resolver has no filter of system calls"

REFUSED: Final = {
    "start programs and processes": "execve execveat fork vfork",
    "look into other processes, and signal them": "kcmp kill pidfd_getfd pidfd_open pidfd_send_signal process_madvise "
    "process_mrelease process_vm_readv process_vm_writev ptrace rt_sigqueueinfo rt_tgsigqueueinfo tkill",
    "change other users, priorities and limits": "capset ioprio_set personality sched_setaffinity sched_setattr "
    "sched_setparam sched_setscheduler setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 "
    "setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit "
    "setsid setuid setuid32",
    "enter namespaces, and mount": "chroot fsconfig fsmount fsopen fspick listmount mount mount_setattr move_mount "
    "open_tree open_tree_attr pivot_root setns statmount umount umount2 unshare",
    "change files": "chmod chown chown32 creat fallocate fchmod fchmodat fchmodat2 fchown fchown32 fchownat "
    "fremovexattr fsetxattr futimesat lchown lchown32 link linkat lremovexattr lsetxattr mkdir mkdirat mknod mknodat "
    "removexattr rename renameat renameat2 rmdir setxattr setxattrat removexattrat symlink symlinkat truncate "
    "truncate64 unlink unlinkat utime utimensat utimensat_time64 utimes",
    "open files by other ways than their names": "fanotify_init fanotify_mark memfd_create memfd_secret "
    "name_to_handle_at open_by_handle_at",
    "attack the kernel by seldom used parts": "add_key bpf io_cancel io_destroy io_getevents io_pgetevents io_setup "
    "io_submit io_uring_enter io_uring_register io_uring_setup keyctl lookup_dcookie mbind migrate_pages modify_ldt "
    "move_pages perf_event_open remap_file_pages request_key seccomp set_mempolicy set_mempolicy_home_node splice "
    "subpage_prot tee uselib userfaultfd vmsplice",
    "exchange memory and messages": "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl "
    "msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget",
    "administer the machine": "_sysctl acct adjtimex clock_adjtime clock_settime create_module delete_module "
    "finit_module init_module ioperm iopl kexec_file_load kexec_load nfsservctl pciconfig_iobase pciconfig_read "
    "pciconfig_write query_module quotactl quotactl_fd reboot setdomainname sethostname settimeofday stime swapoff "
    "swapon sysfs syslog ustat vhangup vm86 vm86old",
}
"""What is refused (``EPERM``), with the names of the calls. A name that an architecture or the library lacks counts
for nothing."""
REPLACED: Final = "clone3 openat2"
"""Calls whose arguments are in memory, which a filter cannot read: as if the kernel were too old for them (``ENOSYS``).
The C library then uses the older call, whose arguments are checked."""


class _Argument(ctypes.Structure):
    """``struct scmp_arg_cmp`` (seccomp.h)."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Rule(NamedTuple):
    """A call that gets an error if one of its arguments compares so."""

    call: str
    error: int = errno.EPERM
    argument: tuple[int, int, int, int] | None = None
    """Its number, the comparison and up to two values; ``None``: always."""


def rules() -> Iterator[Rule]:
    """Yield what the filter refuses."""
    for names in REFUSED.values():
        yield from map(Rule, names.split())
    for name in REPLACED.split():
        yield Rule(name, errno.ENOSYS)
    flags = 1 if os.uname().machine == "s390x" else 0  # clone(2), "C library/kernel differences"
    yield Rule("clone", argument=(flags, _MASKED_EQ, _CLONE_THREAD, 0))
    yield Rule("prlimit64", argument=(2, _NE, 0, 0))  # a new limit is given
    yield from _families()
    yield from _written_files("open", 1)
    yield from _written_files("openat", 2)
    writable_code = mmap.PROT_WRITE | mmap.PROT_EXEC
    for name in ("mmap", "mmap2"):
        yield Rule(name, argument=(2, _MASKED_EQ, writable_code, writable_code))
    for name in ("mprotect", "pkey_mprotect"):
        yield Rule(name, argument=(2, _MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC))


def _families() -> Iterator[Rule]:
    """Refuse sockets other than of IP. A rule may compare an argument once, so the gaps are listed.

    The values are compared as 64 bits, of which the kernel uses 32: the last comparison refuses all others.
    """
    low, high = sorted((int(socket.AF_INET), int(socket.AF_INET6)))
    yield Rule("socket", argument=(0, _LE, low - 1, 0))
    for family in range(low + 1, high):
        yield Rule("socket", argument=(0, _EQ, family, 0))
    yield Rule("socket", argument=(0, _GE, high + 1, 0))


def _written_files(call: str, number: int) -> Iterator[Rule]:
    for mode in (os.O_WRONLY, os.O_RDWR):
        yield Rule(call, argument=(number, _MASKED_EQ, os.O_ACCMODE, mode))
    for flag in (os.O_CREAT, os.O_TRUNC):
        yield Rule(call, argument=(number, _MASKED_EQ, flag, flag))


def load_filter() -> str:
    """Put the filter into force, for all threads of this process and for good; sets ``no_new_privs``.

    Returns:
        Why there is no filter, for people; empty: it is in force.
    """
    try:
        library = ctypes.CDLL(SECCOMP_LIBRARY, use_errno=True)
    except OSError:
        return f"{_NO_FILTER}: {SECCOMP_LIBRARY} is missing: {install_command('libseccomp2')}"
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    try:
        _build(library, context)
        _check(library.seccomp_load(context), "loading it")
    except OSError as failure:
        return f"{_NO_FILTER}: {failure.strerror}"
    finally:
        library.seccomp_release(context)
    return ""


def _build(library: Any, context: ctypes.c_void_p) -> None:
    _check(library.seccomp_attr_set(context, _SYNCHRONISE_THREADS, ctypes.c_uint32(1)), "synchronising threads")
    library.seccomp_attr_set(context, _OPTIMISE, ctypes.c_uint32(_BINARY_TREE))  # quicker only
    for call, error, argument in rules():
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number == _UNKNOWN_CALL:
            continue
        action = ctypes.c_uint32(_ERRNO | error)
        compared = (_Argument * 1)(_Argument(*argument)) if argument else None
        _check(library.seccomp_rule_add_array(context, action, number, 1 if argument else 0, compared), call)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
