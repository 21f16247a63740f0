"""The program that becomes the DHCP client of a sandbox: ``python -m sandnet.kernel.linux.dhcp.client_process``.

It starts as the daemon's user, enters the sandbox's network namespace, drops all rights but two, and executes udhcpc.
The parent process returns when that has happened; the client outlives the daemon.

The client keeps ``CAP_NET_RAW``, as it has no address when it asks for one, and ``CAP_NET_BIND_SERVICE``, as clients
receive at port 68. It may not configure anything: the daemon does that, after it has checked what the server stated.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final

from sandnet.kernel.capabilities import CAP_NET_BIND_SERVICE, CAP_NET_RAW, become_with_capabilities, raise_oom_score
from sandnet.kernel.linux.cgroups.container_processes import start_time
from sandnet.kernel.linux.dhcp import event_script
from sandnet.kernel.linux.dhcp.files import lock_for_life
from sandnet.kernel.syscalls import CLONE_NEWNET, opened_namespace, set_namespace

USER: Final = "sandnet-dhcp"
"""User of the process (systemd/sandnet.sysusers)."""
FALLBACK: Final = 65522
"""Id of user and group where that user does not exist; see ``sandnet.resolver``, which has the next one."""
_PYTHON: Final = ("/usr/bin/python3", "/usr/local/bin/python3")
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_TRIES, _PAUSE, _REST = "5", "3", "20"
"""Five requests, three seconds between them, and twenty seconds until the next five."""
_OPTIONS: Final = ("subnet", "router", "dns", "domain", "lease")
"""What is requested beside the address. Static routes (option 121) are not: by them a stranger on the segment could
draw all traffic to itself, past the default routes of the sandbox's other networks."""
_LARGEST_FILE: Final = 65_536
_MEMORY: Final = 512 << 20
_DESCRIPTORS: Final = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the client in a process of its own, and return 0 once it runs, or another one did already."""
    options = _parser().parse_args(arguments)
    reader, writer = os.pipe()  # the writer is closed when udhcpc is executed
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as failure:
            problem = failure.read()
        if problem:
            sys.stderr.write(f"sandnet: {problem}\n")
        return 1 if problem else 0
    try:
        os.setsid()
        _become_client(options)
    except BlockingIOError:  # there is one, or it was stopped before it started
        os._exit(0)
    except BaseException as failure:
        os.write(writer, f"DHCP client on {options.interface}: {failure}"[:512].encode())
        os._exit(1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Becomes a DHCP client.")
    parser.add_argument("--program", required=True, help="path of udhcpc")
    parser.add_argument("--lock", required=True, help="file that the client keeps locked")
    parser.add_argument("--folder", required=True, help="directory for its reports")
    parser.add_argument("--namespace", required=True, help="path of the network namespace")
    parser.add_argument("--inode", type=int, required=True, help="identity of that namespace")
    parser.add_argument("--interface", required=True, help="the interface inside")
    parser.add_argument("--host-name", default="", help="what the client calls itself")
    parser.add_argument("--wanted", default="", help="the address that it had before")
    return parser


def _become_client(options: argparse.Namespace) -> None:
    lock = lock_for_life(options.lock)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {_started()}\n".encode(), 0)
    _enter(options.namespace, options.inode)
    folder = os.open(options.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.fchdir(folder)
    for name in os.listdir(folder):  # the reports of an earlier client
        os.unlink(name)
    script = _script()
    _detach_streams()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and then by what it executes
        signal.signal(ignored, signal.SIG_DFL)
    _limit()
    raise_oom_score()
    become_with_capabilities(USER, FALLBACK, (CAP_NET_RAW, CAP_NET_BIND_SERVICE), folder)
    command = _command(options, f"/proc/self/fd/{script}")
    os.execve(options.program, command, {"PATH": _PATH})  # noqa: S606 - no shell is wanted


def _command(options: argparse.Namespace, script: str) -> list[str]:
    # in the foreground, returning the address at the end; its messages go to the system's log
    command = ["udhcpc", "-f", "-R", "-S", "-i", options.interface, "-s", script, "-V", "sandnet", "-o"]
    command += ["-t", _TRIES, "-T", _PAUSE, "-A", _REST]
    for name in _OPTIONS:
        command += ["-O", name]
    command += ["-x", f"hostname:{options.host_name}"] if options.host_name else []
    return command + (["-r", options.wanted] if options.wanted else [])


def _enter(namespace: str, inode: int) -> None:
    with opened_namespace(namespace) as descriptor:
        if os.fstat(descriptor).st_ino != inode:
            raise OSError(f"another namespace is pinned at {namespace}")
        set_namespace(descriptor, CLONE_NEWNET)


def _script() -> int:
    """Return a descriptor of the script that udhcpc starts, with its interpreter in its first line.

    It is in memory: the files of this package may be in a directory that the client's user cannot reach, and not be
    executable. It is inherited, and cannot change any more.
    """
    interpreter = next((path for path in _PYTHON if os.access(path, os.X_OK)), sys.executable)
    with open(event_script.__file__, "rb") as file:
        content = f"#!{interpreter} -IS\n".encode() + file.read()
    descriptor = os.memfd_create("sandnet-dhcp-event", os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    os.fchmod(descriptor, 0o555)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    os.set_inheritable(descriptor, True)
    return descriptor


def _detach_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in range(3):
        os.dup2(null, stream)


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        resource.setrlimit(kind, (most, most))


def _started() -> int:
    with open("/proc/self/stat") as file:
        return start_time(file.read()) or 0


if __name__ == "__main__":
    sys.exit(main())
