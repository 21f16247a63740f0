"""Reads links, addresses and routes in bulk: one dump each for the host, and one each in a sandbox.

A sandbox takes 0.3 ms, most of it spent in the kernel and in changes between namespaces. Layouts and numbers:
``linux/rtnetlink.h``, ``linux/if_link.h``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sandnet.errors import Error
from sandnet.kernel.linux.cgroups.container_processes import unescaped
from sandnet.kernel.linux.namespaces import LinuxNamespaces
from sandnet.kernel.linux.neighbour_stats import overflows
from sandnet.kernel.netlink.route_sources import dump_widest
from sandnet.kernel.netlink.routes import ROUTE_PROTOCOL, dump_routes
from sandnet.kernel.netlink.rtnetlink import (
    dump_addresses,
    dump_ports,
    get_port,
)
from sandnet.kernel.netlink.socket import Netlink, TooMuchError, map_errors
from sandnet.kernel.netlink.source_routing import dump_policy
from sandnet.kernel.syscalls import NotANetworkNamespaceError
from sandnet.kernel.types import DefaultRouteState, NamespaceState, PackedPrefix, PinnedNamespace, Port

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_NOTHING: Final = NamespaceState({}, {}, {}, ())
_MOUNTS: Final = "/proc/thread-self/mountinfo"


class LinuxStateReader:
    """The Linux implementation of :class:`sandnet.kernel.observation.StateReader`.

    Args:
        namespaces: opens a sandbox safely.
        sandbox_dir: the directory that all keys are below.
    """

    def __init__(self, namespaces: LinuxNamespaces, sandbox_dir: str) -> None:
        self._namespaces = namespaces
        self._root = sandbox_dir.rstrip("/")

    def host(self, only: str = "") -> NamespaceState:
        """See :meth:`sandnet.kernel.observation.StateReader.host`.

        Raises:
            Error: ``UNAVAILABLE`` the kernel refuses.
        """
        with map_errors("look at the host's links"), Netlink() as netlink:
            if not only:
                return _namespace_state(netlink, dump_ports(netlink), _FAMILIES)
            port = get_port(netlink, only)
            return _namespace_state(netlink, [port], _FAMILIES, port.link.ifindex) if port else _NOTHING

    def uplinks(self) -> Collection[tuple[int, str]]:
        """See :meth:`sandnet.kernel.observation.StateReader.uplinks`.

        Raises:
            Error: ``UNAVAILABLE`` the kernel refuses.
        """
        with map_errors("look for the host's uplinks"), Netlink() as netlink:
            found = {(4 if path.family == socket.AF_INET else 6, path.link) for path in dump_widest(netlink)}
        return [(version, name) for version, link in sorted(found) if (name := _name(link))]

    def neighbour_overflows(self) -> Mapping[int, int]:
        """See :meth:`sandnet.kernel.observation.StateReader.neighbour_overflows`."""
        return overflows()

    def inside(self, keys: Sequence[str], *, ipv6: bool = True) -> list[PinnedNamespace | None]:
        """See :meth:`sandnet.kernel.observation.StateReader.inside`."""
        families = _FAMILIES if ipv6 else _FAMILIES[:1]
        return [self._inside(key, families) for key in keys]

    def pinned(self) -> frozenset[str]:
        """See :meth:`sandnet.kernel.observation.StateReader.pinned`."""
        # The kernel lists paths without symbolic links, and /var/run, where sandboxes are by default, is one.
        actual = os.path.realpath(self._root)
        places = map(_place, _mounts())
        return frozenset(self._root + place[len(actual) :] for place in places if place.startswith(f"{actual}/"))

    def mount_path_of(self, inode: int) -> str:
        """See :meth:`sandnet.kernel.observation.StateReader.mount_path_of`.

        Raises:
            Error: ``UNAVAILABLE`` the mount table cannot be read.
        """
        return next(map(_place, _mounts(f" net:[{inode}] ")), "")

    def process_in(self, inode: int) -> int:
        """See :meth:`sandnet.kernel.observation.StateReader.process_in`."""
        target = f"net:[{inode}]"
        for name in os.listdir("/proc"):
            if name.isdecimal() and _namespace_of(name) == target:
                return int(name)
        return 0

    def _inside(self, key: str, families: Sequence[int]) -> PinnedNamespace | None:
        try:
            with self._namespaces.opened(key) as namespace:
                inode = os.fstat(namespace).st_ino
                state = _state_inside(namespace, families)
                return PinnedNamespace(inode, state or _NOTHING, complete=state is not None)
        except (OSError, NotANetworkNamespaceError, Error):
            return None


def _state_inside(namespace: int, families: Sequence[int]) -> NamespaceState | None:
    """Read the state of a sandbox; ``None``: it holds more than one scan may read."""
    try:
        with Netlink.inside(namespace) as netlink:
            state = _namespace_state(netlink, dump_ports(netlink), families)
            return state._replace(policy=dump_policy(netlink))
    except TooMuchError:
        return None


def _name(index: int) -> str:
    """Return the name of a link of the host; empty: it was deleted."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _mounts(word: str = "") -> list[str]:
    """Return the lines of the mount table (proc(5)) that contain a text."""
    with map_errors("read the table of mounts"), open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        return [line for line in file if word in line]


def _place(line: str) -> str:
    return unescaped(line.split(" ", 5)[4])


def _namespace_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # the process has exited
        return ""


def _namespace_state(netlink: Netlink, ports: Iterable[Port], families: Iterable[int], only: int = 0) -> NamespaceState:
    """Read the state of all links, or of the one with the index ``only``."""
    links = {port.link.name: port for port in ports}
    addresses: dict[int, set[PackedPrefix]] = {}
    for index, address in dump_addresses(netlink, only):
        addresses.setdefault(index, set()).add(address)
    connected: dict[int, set[PackedPrefix]] = {}
    via: dict[int, set[tuple[PackedPrefix, bytes]]] = {}
    defaults: list[DefaultRouteState] = []
    for family in families:
        for route in dump_routes(netlink, family, only):
            if not route.length:
                version = 4 if family == socket.AF_INET else 6
                defaults.append(
                    DefaultRouteState(version, route.gateway, route.ifindex, route.protocol == ROUTE_PROTOCOL)
                )
            elif not route.gateway:
                connected.setdefault(route.ifindex, set()).add((route.destination, route.length))
            else:
                via.setdefault(route.ifindex, set()).add(((route.destination, route.length), route.gateway))
    state = NamespaceState(links, _frozen(addresses), _frozen(connected), defaults)
    return state._replace(via={index: frozenset(members) for index, members in via.items()}) if via else state


def _frozen(found: dict[int, set[PackedPrefix]]) -> dict[int, frozenset[PackedPrefix]]:
    return {index: frozenset(members) for index, members in found.items()}
