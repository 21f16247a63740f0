"""The daemon's steps, found by introspection, and its death at one of them.

A *step* is a call that may change something outside the process: a method of one of the kernel's protocols, of the
store, of the file writer or of the resolver's client, and inside of them each netlink request, mount and change of a
file. What is added to a protocol tomorrow is a step tomorrow; only what is known to be a read is left out, by name.

This runs in the daemon's own process. The test arms it through a few shared bytes.
"""

from __future__ import annotations

import inspect
import mmap
import os
import signal
import sqlite3
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

from sandnet.dns.base import NameService
from sandnet.dns.client import NameClient
from sandnet.drivers.remote import plugin_exchange
from sandnet.kernel import base, syscalls
from sandnet.kernel.linux.kernel import LinuxKernel
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.safe_files import Files
from sandnet.stores.base import Store
from sandnet.stores.sqlite import file as sqlite_file
from sandnet.stores.sqlite import recovery
from sandnet.stores.sqlite.store import SqliteStore

READS: Final = frozenset({
    "Links.list", "Links.find", "Links.addresses",
    "Namespaces.identify", "Namespaces.find", "Namespaces.interfaces", "Namespaces.tcp_socket",
    "Sysctl.get", "Sysctl.is_writable", "Host.occupied", "Host.local_port_range",
    "Host.reserved_ports", "Host.missing_features", "Host.is_preferred",
    "Firewall.listing", "Firewall.foreign_generation", "Firewall.acknowledge",
    "Processes.namespaces", "Processes.started", "Processes.watch",
    "StateReader.host", "StateReader.uplinks", "StateReader.neighbour_overflows",
    "StateReader.inside", "StateReader.process_in", "StateReader.mount_path_of", "StateReader.pinned",
    "VxlanPorts.find", "VxlanPorts.entries", "VxlanPorts.changed", "VxlanPorts.underlay", "VxlanPorts.path_mtu",
    "VxlanPorts.close",
    "SuppliedLinks.is_placed", "SandboxPool.take", "SandboxPool.status",
    "Watcher.read", "Watcher.name", "Watcher.links_into",
    "Files.check", "Files.read", "Files.fingerprint",
    "Store.get", "Store.list", "Store.watch", "Store.close", "Store.problems", "Store.verify",
    "NameService.problem", "NameService.explain",
})  # fmt: skip
"""Change nothing, so the moments before and after one are the same moment."""
FILE_CHANGES: Final = frozenset({
    "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chown",
})  # fmt: skip
"""Audit events of changes of a file (docs.python.org/3/library/audit_events); ``open`` for writing is another."""
SYSTEM_CALLS: Final = ("bind_mount", "unmount", "unshare_network")
STORE_WORK: Final[dict[str, Callable[..., Any]]] = {
    "Store.salvage": recovery.open_or_salvage,
    "Store.backup": recovery.write_backup,
    "Store.replace": recovery.replace_all,
}
"""What is done to the store's file beside commits. Inside of these each statement that changes something is a step, as
the file is not one that SQLite alone takes care of."""
_CHANGING: Final = (
    "BEGIN",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "ALTER",
    "VACUUM",
    "COMMIT",
    "PRAGMA user_version =",
)
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CONTROL_SIZE: Final = 4096
_calls = count()
_HEAD: Final = struct.Struct("=BH")
"""Of the shared bytes: a number that is another one each time it is armed (0: not), and the target's length."""


class Step(NamedTuple):
    """One edge of one step, as it is found again in another run."""

    edge: str
    """``begin`` or ``end``; ``mark``: the beginning of a step whose end cannot be seen."""
    name: str
    nth: int
    """Counts the edges of that name since the recorder was armed, from 1."""

    def __str__(self) -> str:
        when = "after" if self.edge == "end" else "before"
        return f"{when} {self.name} ({self.nth})"


class Event(NamedTuple):
    """An edge as it happened."""

    step: Step
    lane: str
    """The thread or task: those of one lane never overlap, but for being inside each other."""
    label: str
    """The call's arguments."""


class Control:
    """The bytes that the test and the daemon share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(CONTROL_SIZE))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), CONTROL_SIZE)
        self._turn = 0

    def arm(self, target: Step | None) -> None:
        """Record from now on, and die at ``target``."""
        text = "\0".join((target.edge, target.name, str(target.nth))).encode() if target else b""
        self._turn = self._turn % 255 + 1
        self._bytes[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._bytes, 0, self._turn, len(text))

    def disarm(self) -> None:
        """Neither record nor die."""
        _HEAD.pack_into(self._bytes, 0, 0, 0)

    @property
    def turn(self) -> int:
        """0: not armed."""
        return self._bytes[0]

    def target(self) -> Step | None:
        """Where to die."""
        _, length = _HEAD.unpack_from(self._bytes)
        if not length:
            return None
        edge, name, nth = self._bytes[_HEAD.size : _HEAD.size + length].decode().split("\0")
        return Step(edge, name, int(nth))


class Recorder:
    """Writes down every edge while it is armed, and kills the process at one of them. It does nothing before it is
    opened: so it can be installed before a process is forked, and opened after it."""

    def __init__(self) -> None:
        self._control: Control | None = None
        self._trace = -1
        self._lock = threading.RLock()
        self._turn = 0
        self._target: Step | None = None
        self._seen: Counter[tuple[str, str]] = Counter()

    def open(self, control: Path, trace: Path) -> None:
        """Obey a file, and write to another one."""
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        self._control = Control(control)

    def note(self, edge: str, name: str, lane: str, label: str) -> None:
        """The process is at this edge."""
        if self._control is None or not self._control.turn:
            return
        with self._lock:
            turn = self._control.turn
            if not turn:  # disarmed since: to begin a new trace would delete what was recorded
                return
            if turn != self._turn:
                self._turn, self._target = turn, self._control.target()
                self._seen.clear()
                os.ftruncate(self._trace, 0)
                os.lseek(self._trace, 0, os.SEEK_SET)
            self._seen[edge, name] += 1
            step = Step(edge, name, self._seen[edge, name])
            os.write(self._trace, "\t".join((*map(str, step), lane, label)).encode() + b"\n")
            if step == self._target:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal is on its way; nothing else may happen on this thread


def read_trace(path: Path) -> list[Event]:
    """What was written down since the recorder was armed last; not a line that is being written."""
    *lines, _ = path.read_text().split("\n")
    found = []
    for line in lines:
        edge, name, nth, lane, label = line.split("\t")
        found.append(Event(Step(edge, name, int(nth)), lane, label))
    return found


def found_steps() -> dict[str, tuple[type, str]]:
    """Every method of the protocols that may change something: its name, and where its implementation is."""
    implementations = [(base_of(part), real_of(part)) for part in parts()]
    implementations += [(Store, SqliteStore), (Files, Files), (NameService, NameClient)]
    found = {
        f"{protocol.__name__}.{name}": (real, name)
        for protocol, real in implementations
        for name, member in vars(protocol).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }
    found["Store.open"] = (SqliteStore, "open")
    return found


def parts() -> list[str]:
    """What a kernel is made of."""
    return [name for name, member in vars(base.Kernel).items() if isinstance(member, property)]


def base_of(part: str) -> type:
    """The protocol of a part."""
    found: type = get_type_hints(vars(base.Kernel)[part].fget)["return"]
    return found


def real_of(part: str) -> type:
    """The class that implements it on Linux."""
    found: type = get_type_hints(vars(LinuxKernel)[part].fget)["return"]
    return found


def install(recorder: Recorder) -> None:
    """Make every step of this process tell the recorder; for good."""
    for name, (owner, attribute) in found_steps().items():
        if name not in READS:
            setattr(owner, attribute, reported(recorder, name, getattr(owner, attribute)))
    Netlink.call = reported(recorder, "netlink", Netlink.call, inner=True)  # type: ignore[method-assign]
    for name in SYSTEM_CALLS:
        call = getattr(syscalls, name)
        _replace_everywhere(call, reported(recorder, name, call, inner=True))
    for name, work in STORE_WORK.items():
        _replace_everywhere(work, reported(recorder, name, work))
    exchange = plugin_exchange.exchange
    _replace_everywhere(exchange, reported(recorder, "PluginClient.exchange", exchange))
    _replace_everywhere(sqlite_file.connect, _traced(recorder, sqlite_file.connect))
    sys.addaudithook(lambda event, args: _audit(recorder, event, args))


_inside = threading.local()
"""What step the thread is in: its ``name``."""


def reported(recorder: Recorder, name: str, call: Callable[..., Any], *, inner: bool = False) -> Callable[..., Any]:
    """The call, with its two edges noted. An inner one is named after what it is part of."""
    if inspect.iscoroutinefunction(call):

        @wraps(call)
        async def slow(*args: Any, **kwargs: Any) -> Any:
            lane, label = f"call {next(_calls)}", _label(args[1:], kwargs)
            recorder.note("begin", name, lane, label)
            try:
                return await call(*args, **kwargs)
            finally:
                recorder.note("end", name, lane, label)

        return slow

    @wraps(call)
    def quick(*args: Any, **kwargs: Any) -> Any:
        outer = getattr(_inside, "name", "")
        full = f"{outer or '-'}/{name}" if inner else name
        lane, label = _thread(), _label(args[1:2] if inner else args[1:], kwargs)
        recorder.note("begin", full, lane, label)
        _inside.name = outer if inner else name
        try:
            return call(*args, **kwargs)
        finally:
            _inside.name = outer
            recorder.note("end", full, lane, label)

    return quick


def _traced(recorder: Recorder, connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def note(statement: str) -> None:
        outer = getattr(_inside, "name", "")
        if outer in STORE_WORK and statement.startswith(_CHANGING):
            recorder.note("mark", f"{outer}/sql", _thread(), _short(statement))

    @wraps(connect)
    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(note)
        return connection

    return connected


def _thread() -> str:
    return f"thread {threading.get_ident()}"


def _label(args: Iterable[Any], kwargs: dict[str, Any]) -> str:
    return " ".join([*map(_short, args), *(f"{key}={_short(value)}" for key, value in kwargs.items())])


def _short(value: object) -> str:
    return " ".join(str(value).split())[:300]


def _replace_everywhere(old: object, new: object) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("sandnet."):
            for attribute in [key for key, value in vars(module).items() if value is old]:
                setattr(module, attribute, new)


def _audit(recorder: Recorder, event: str, args: tuple[Any, ...]) -> None:
    if event in FILE_CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
        path = args[0]
        if isinstance(path, str) and not path.startswith(("/dev/", "/proc/")) and not _is_idle(event, args):
            recorder.note("mark", f"{getattr(_inside, 'name', '') or '-'}/{event}", _thread(), _short(path))


def _is_idle(event: str, args: tuple[Any, ...]) -> bool:
    """Whether a change of a file will change nothing: the directory is there already, or the file is not."""
    if event not in ("os.mkdir", "os.remove"):
        return False
    folder = args[-1] if args[-1] >= 0 else None
    try:
        os.stat(args[0], dir_fd=folder, follow_symlinks=False)
    except OSError:
        return event == "os.remove"
    return event == "os.mkdir"
