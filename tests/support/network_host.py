"""A host for each test: a network and a mount namespace of its own, in which anything may be done.

A :class:`Host` is a thread that has left the machine's namespaces. Work handed to it happens inside, and a
process started by it lives there too, since a child inherits the namespaces of the thread that forks. When
the thread and its processes are gone, the kernel takes everything away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x20000
CLONE_NEWNET: Final = 0x40000000
MS_PRIVATE_ALL: Final = (1 << 18) | 0x4000
MNT_DETACH: Final = 2
FRESH_FOLDERS: Final = ("/run", "/var/lib")
"""Where a daemon keeps its files: empty on every host."""
ECHO: Final = {4: (8, 0), 6: (128, 129)}
"""ICMP types of an echo request and its reply, by IP version (RFC 792, RFC 4443)."""
ATTEMPT: Final = 0.1
"""Seconds that an echo waits for its reply."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *args: object) -> None:
    if getattr(_libc, function)(*args) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


@cache
def unavailable() -> str:
    """Return why this machine cannot be a host for tests; empty if it can."""
    try:
        Host().close()
    except OSError as error:
        return f"tests need root and Linux namespaces: {error}"
    return ""


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until ``condition`` is true. The machines of tests are shared: who waits, waits long.

    Raises:
        AssertionError: it is not, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def seconds_to_start() -> float:
    """How long a process like the resolver takes to start now: how busy the machine is."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-P", "-c", "import sandnet.resolver"], check=True)
    return time.monotonic() - began


def _unmount_strangers() -> None:
    """Namespaces that others had pinned when the table of mounts was copied: they would vanish during a test."""
    with open("/proc/thread-self/mountinfo", encoding="utf-8") as table:
        pinned = [line.split(" ", 5)[4] for line in table if " - nsfs " in line]
    for place in pinned:
        with suppress(OSError):  # it is gone already
            _call("umount2", place.encode(), MNT_DETACH)


class RunsCommands(Protocol):
    """A place where commands run: a :class:`Host`, or the one on which this process is."""

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the job returns there."""
        ...

    def sh(self, *command: str) -> str:
        """The output of a command."""
        ...

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """A process that is started there."""
        ...


class Container:
    """A plain network namespace on a host, as another program would have made it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.descriptor: int = host.run(self._make)
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @staticmethod
    def _make() -> int:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _call("unshare", CLONE_NEWNET)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        finally:
            _call("setns", home, CLONE_NEWNET)
            os.close(home)

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result; it ran inside, on the host's one thread (so it must not wait for the host)."""
        return self._host.inside(self.path, job, *args, **kwargs)

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start a process inside; it ends with the host."""
        return self.run(self._host.start_here, *command)

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.descriptor)


class Host:
    """A machine's worth of network, with nothing in it but ``lo`` (up), and empty ``/run`` and ``/var/lib``."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._containers: list[Container] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="host")
        try:
            self.net, self.mnt = self.run(self._leave_the_machine)
        except BaseException:
            self._thread.shutdown()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _leave_the_machine() -> tuple[int, int]:
        _call("unshare", CLONE_NEWNET | CLONE_NEWNS)
        _call("mount", b"none", b"/", None, MS_PRIVATE_ALL, None)
        _unmount_strangers()
        for folder in FRESH_FOLDERS:
            _call("mount", b"tmpfs", folder.encode(), b"tmpfs", 0, None)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        net, mnt = (os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt"))
        return net, mnt

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result, run on this host."""
        return self._thread.submit(job, *args, **kwargs).result()

    def inside(self, namespace: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result, run in the network namespace at ``namespace`` (a path on this host)."""

        def there() -> T:
            target = os.open(namespace, os.O_RDONLY)
            try:
                _call("setns", target, CLONE_NEWNET)
                return job(*args, **kwargs)
            finally:
                _call("setns", self.net, CLONE_NEWNET)
                os.close(target)

        return self.run(there)

    def enter(self) -> None:
        """Move the calling thread to this host for good: the ``initializer`` of a thread pool."""
        _call("unshare", CLONE_FS)
        _call("setns", self.mnt, CLONE_NEWNS)
        _call("setns", self.net, CLONE_NEWNET)

    def sh(self, *command: str, namespace: str = "") -> str:
        """The output of a command, run here or in the namespace at a path.

        Raises:
            AssertionError: it failed; the message holds what it printed.
        """
        done = self.inside(namespace, _captured, command) if namespace else self.run(_captured, command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start a process on this host (stdout and stderr are pipes); it ends with the host."""
        return self.run(self.start_here, *command)

    def start_here(self, *command: str) -> subprocess.Popen[str]:
        """Start a process in the namespaces of the calling thread; it ends with the host."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        self._processes.append(process)
        return process

    def container(self) -> Container:
        """A namespace on this host that is not ours; let go of when the host ends."""
        container = Container(self)
        self._containers.append(container)
        return container

    def reaches(self, address: str, *, namespace: str = "", seconds: float = 2.0) -> bool:
        """Whether an ICMP echo from this host, or from the namespace at a path, comes back in time."""
        if namespace:
            return self.inside(namespace, ping, address, seconds)
        return self.run(ping, address, seconds)

    def close(self) -> None:
        """End what was started here; the kernel removes the rest."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for container in self._containers:
            container.close()
        self._thread.shutdown()
        os.close(self.net)
        os.close(self.mnt)


def _captured(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ping(address: str, seconds: float) -> bool:
    """Whether one of several ICMP echoes to ``address`` is answered within ``seconds``.

    No attempt counts for more than it may take, as when the machine stands still during one.
    """
    target = ip_address(address)
    protocol = socket.IPPROTO_ICMP if target.version == 4 else socket.IPPROTO_ICMPV6
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, protocol) as icmp:
        icmp.settimeout(ATTEMPT)
        while seconds > 0:
            began = time.monotonic()
            try:
                icmp.sendto(_echo_request(target), (address, 0))
                while not _is_reply(icmp.recv(2048), target):
                    pass
            except OSError:
                time.sleep(0.02)
            else:
                return True
            seconds -= min(time.monotonic() - began, ATTEMPT)
    return False


def _echo_request(target: IPv4Address | IPv6Address) -> bytes:
    kind = ECHO[target.version][0]
    identity = os.getpid() & 0xFFFF
    total = (kind << 8) + identity
    checksum = ~(total + (total >> 16)) & 0xFFFF if target.version == 4 else 0  # the kernel fills in version 6
    return struct.pack("!BBHHH", kind, 0, checksum, identity, 0)


def _is_reply(packet: bytes, target: IPv4Address | IPv6Address) -> bool:
    message = packet[20:] if target.version == 4 else packet
    kind, _code, _checksum, identity = struct.unpack_from("!BBHH", message)
    return bool(kind == ECHO[target.version][1] and identity == os.getpid() & 0xFFFF)
