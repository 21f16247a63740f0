"""The resolver's filter of system calls, loaded by processes of their own."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys

import pytest

from sandnet.kernel.syscall_filter import REFUSED, REPLACED, rules
from sandnet.prerequisites import SECCOMP_LIBRARY

UNPRIVILEGED = "drop_privileges('sandnet-resolver', 65523)"
FILTER = "assert load_filter() == ''"
ATTEMPTS = {
    "fork": "os._exit(0) if os.fork() == 0 else None",
    "start a program": "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "signal a process": "os.kill(os.getpid(), 0)",
    "be traced": "checked(libc.ptrace(0, 0, 0, 0))",
    "read the memory of a process": "checked(libc.process_vm_readv(os.getpid(), None, 0, None, 0, 0))",
    "open a process": "os.pidfd_open(os.getpid())",
    "make a namespace": "checked(libc.unshare(0))",
    "open a unix socket": "socket.socket(socket.AF_UNIX)",
    "open a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "open a kernel crypto socket": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "open a vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "create a file": "os.open('/tmp', os.O_TMPFILE | os.O_WRONLY)",
    "write a file": "os.open('/dev/null', os.O_WRONLY)",
    "read and write a file": "os.open('/dev/null', os.O_RDWR)",
    "make a file of memory": "os.memfd_create('x')",
    "make a message queue": "checked(libc.msgget(0, 0o600))",
    "change a limit": "checked(libc.setrlimit(4, (ctypes.c_ulong * 2)()))",
    "change the priority": "os.setpriority(os.PRIO_PROCESS, 0, 19)",
    "map memory to write and run": "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "load a filter": "checked(libc.syscall(number('seccomp'), 2, 0, ctypes.byref(ctypes.c_int(0x7fff0000))))",
}
"""What a process without any right may do, and what the filter refuses it."""
GOES_ON = {
    "threads": "t = threading.Thread(target=print, args=('x',)); t.start(); t.join()",
    "sockets of IP": "[socket.socket(f, k) for f in (socket.AF_INET, socket.AF_INET6) "
    "for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]",
    "a pair of sockets": "socket.socketpair()",
    "read a file": "open('/etc/passwd').read()",
    "the index of a link": "socket.if_nametoindex('lo')",
    "read a limit": "resource.getrlimit(resource.RLIMIT_NOFILE)",
    "an event loop": "asyncio.run(asyncio.sleep(0))",
}
PREPARED = f"""
import asyncio, ctypes, mmap, os, resource, socket, threading
from sandnet.kernel.capabilities import drop_privileges
from sandnet.kernel.syscall_filter import load_filter
libc = ctypes.CDLL(None, use_errno=True)
library = ctypes.CDLL({SECCOMP_LIBRARY!r})

def number(name):
    return library.seccomp_syscall_resolve_name(name.encode())

def checked(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
"""
EVERY_CALL = """
for name in names.split():
    if number(name) >= 0:
        parent = os.getpid()
        result = libc.syscall(number(name), -1, -1, -1, -1, -1, -1)
        if os.getpid() != parent:
            os._exit(0)
        print(name, ctypes.get_errno() if result == -1 else 0)
"""


def output(*source: str) -> list[str]:
    """What Python prints that runs these lines as a process of its own, in its namespaces."""
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([PREPARED, *source])], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def attempted(source: str) -> str:
    return f"try:\n    {source}\nexcept OSError as failure:\n    print(failure.errno)"


@pytest.mark.parametrize("source", ATTEMPTS.values(), ids=ATTEMPTS)
def test_filter_refuses_what_any_process_may_do(source: str) -> None:
    assert output(UNPRIVILEGED, FILTER, attempted(source)) == [str(errno.EPERM)]


@pytest.mark.parametrize("source", ATTEMPTS.values(), ids=ATTEMPTS)
def test_process_without_the_filter_may_do_it(source: str) -> None:
    if output(UNPRIVILEGED, attempted(source)) not in ([], [str(errno.EINVAL)]):
        pytest.skip("this kernel has no such feature, or no process may use it")


@pytest.mark.parametrize("source", GOES_ON.values(), ids=GOES_ON)
def test_filter_allows_what_the_resolver_does(source: str) -> None:
    output(UNPRIVILEGED, FILTER, source)


def test_every_refused_call_of_this_architecture_fails() -> None:
    names = " ".join(REFUSED.values())
    found = output(UNPRIVILEGED, FILTER, f"names = {names!r}", EVERY_CALL)
    assert len(found) > 100
    assert [line for line in found if not line.endswith(f" {errno.EPERM}")] == []


def test_calls_with_arguments_in_memory_look_unknown() -> None:
    found = output(UNPRIVILEGED, FILTER, f"names = {REPLACED!r}", EVERY_CALL)
    assert found == [f"{name} {errno.ENOSYS}" for name in REPLACED.split()]


def test_family_with_bits_that_the_kernel_ignores_is_refused() -> None:
    families = [socket_family | 1 << 32 for socket_family in (1, 2, 3, 10, 16)]
    source = f"for family in {families}:\n    print(libc.syscall(number('socket'), ctypes.c_long(family), 1, 0))"
    assert output(UNPRIVILEGED, FILTER, source) == ["-1"] * len(families)


def test_filter_holds_in_threads_that_exist() -> None:
    source = """
hold, results = threading.Event(), []
def late():
    hold.wait()
    try:
        socket.socket(socket.AF_UNIX)
    except OSError as failure:
        print(failure.errno)
t = threading.Thread(target=late); t.start()
"""
    assert output(UNPRIVILEGED, source, FILTER, "hold.set(); t.join()") == [str(errno.EPERM)]


def test_almost_every_name_is_known_to_the_library() -> None:
    library = ctypes.CDLL(SECCOMP_LIBRARY)
    unknown = {rule.call for rule in rules() if library.seccomp_syscall_resolve_name(rule.call.encode()) == -1}
    newer = {"fchmodat2", "listmount", "open_tree_attr", "removexattrat", "setxattrat", "statmount"}
    assert unknown <= newer | {"quotactl_fd", "process_mrelease", "set_mempolicy_home_node", "memfd_secret"}
