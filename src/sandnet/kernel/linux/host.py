"""Facts about the host: addresses and ports in use, and features its kernel lacks."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.feature_probe import missing_features
from sandnet.kernel.linux.host_ports import HeldPort, PortHolder
from sandnet.kernel.linux.sysctl import ProcSysctl
from sandnet.kernel.netlink.occupied_prefixes import OccupiedPrefixes
from sandnet.kernel.netlink.policy_rules import is_preferred, prefer
from sandnet.kernel.netlink.prefix_table import can_overlap, prefix_of
from sandnet.kernel.netlink.route_follower import RouteFollower
from sandnet.kernel.netlink.routes import add_local, delete_local, has_local
from sandnet.kernel.netlink.socket import Netlink, map_errors
from sandnet.kernel.types import BridgeRoute, RouteSource
from sandnet.model.address import Address, Prefix
from sandnet.model.resolv_conf import RESOLV_CONF, parsed

_MAX_RESOLV_CONF: Final = 1 << 16
_PORT_RANGE: Final = "net/ipv4/ip_local_port_range"
_RESERVED_PORTS: Final = "/proc/sys/net/ipv4/ip_local_reserved_ports"
_MAX_RESERVED_PORTS: Final = 1 << 18
"""Bytes: every second port of all, each with five digits and a comma. The kernel returns nothing after the first
read."""


class Nameservers:
    """The addresses in a resolv.conf(5), read again when the file has changed."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._found: tuple[Prefix, ...] = ()

    def prefixes(self) -> Sequence[Prefix]:
        """Return each as a prefix of one address, without loopback and link-local ones; none without the file."""
        try:
            stat = os.stat(self._path)
            seen = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._found = self._read()
                self._seen = seen
        except OSError:
            self._seen, self._found = (), ()
        return self._found

    def _read(self) -> tuple[Prefix, ...]:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            servers = parsed(file.read(_MAX_RESOLV_CONF)).servers
        packed = (server.packed for server in servers)
        return tuple(prefix_of(each, len(each) * 8) for each in packed if can_overlap(each))


class LinuxHost:
    """See :class:`sandnet.kernel.base.Host`. Safe to use from several threads."""

    def __init__(self, resolv_conf: str = RESOLV_CONF) -> None:
        self._occupancy = OccupiedPrefixes()
        self._routes = RouteFollower()
        self._nameservers = Nameservers(resolv_conf)
        self._ports = PortHolder()
        self._sysctl = ProcSysctl()
        self._lock = threading.Lock()
        self._missing: dict[str, str] | None = None

    def occupied(self, ignore: Collection[str] = ()) -> Sequence[Prefix]:
        """See :meth:`sandnet.kernel.base.Host.occupied`; a prefix may occur several times.

        Raises:
            Error: ``UNAVAILABLE`` when the kernel refuses.
        """
        return [*self._occupancy.prefixes(ignore), *self._nameservers.prefixes()]

    def local_port_range(self) -> tuple[int, int]:
        """See :meth:`sandnet.kernel.base.Host.local_port_range`.

        Raises:
            Error: ``UNAVAILABLE`` when the kernel has no such parameter.
        """
        words = (self._sysctl.get(_PORT_RANGE) or "").split()
        if len(words) != 2:
            raise Error(Kind.UNAVAILABLE, f"this kernel has no sysctl {_PORT_RANGE}")
        return int(words[0]), int(words[1])

    def reserved_ports(self) -> Collection[int]:
        """See :meth:`sandnet.kernel.base.Host.reserved_ports`; read at each call, as operators change it."""
        try:
            with open(_RESERVED_PORTS, "rb", buffering=0) as file:
                text = file.read(_MAX_RESERVED_PORTS).decode(errors="replace")
        except OSError:  # a kernel without it reserves none
            return ()
        return frozenset(port for words in text.strip().split(",") for port in _ports(words))

    def is_preferred(self, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
        """See :meth:`sandnet.kernel.base.Host.is_preferred`."""
        with map_errors("look at the rules for routing"), Netlink() as netlink:
            return is_preferred(netlink, needed, allowed)

    def prefer(self, routes: Sequence[BridgeRoute]) -> None:
        """See :meth:`sandnet.kernel.base.Host.prefer`."""
        with map_errors("come before others' rules for routing"), Netlink() as netlink:
            prefer(netlink, routes)

    def is_local_prefix(self, prefix: Prefix) -> bool:
        """See :meth:`sandnet.kernel.base.Host.is_local_prefix`."""
        with map_errors(f"look for the route to {prefix}"), Netlink() as netlink:
            return has_local(netlink, prefix)

    def add_local_prefix(self, prefix: Prefix) -> None:
        """See :meth:`sandnet.kernel.base.Host.add_local_prefix`."""
        with map_errors(f"make {prefix} local"), Netlink() as netlink:
            add_local(netlink, prefix)

    def remove_local_prefix(self, prefix: Prefix) -> None:
        """See :meth:`sandnet.kernel.base.Host.remove_local_prefix`."""
        with map_errors(f"delete the route to {prefix}"), Netlink() as netlink:
            delete_local(netlink, prefix)

    def route_sources(self) -> Sequence[RouteSource]:
        """See :meth:`sandnet.kernel.base.Host.route_sources`."""
        return self._routes.sources()

    def hold(self, proto: int, address: Address, port: int) -> HeldPort:
        """See :meth:`sandnet.kernel.linux.host_ports.PortHolder.hold`."""
        return self._ports.hold(proto, address, port)

    def missing_features(self) -> dict[str, str]:
        """See :meth:`sandnet.kernel.base.Host.missing_features`; probed at the first call only."""
        with self._lock:
            if self._missing is None:
                self._missing = missing_features()
            return dict(self._missing)

    def close(self) -> None:
        """Release resources; a later call takes new ones. Held ports stay held."""
        self._occupancy.close()
        self._routes.close()


def _ports(words: str) -> range:
    """Parse ``80`` or ``8000-8010``, as the kernel prints it; empty when it is neither."""
    first, _, last = words.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        return range(0)
