"""Bulk reads of the in-memory kernel's state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sandnet.kernel.fake.common import LOOPBACK, FakeNamespace, FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.fake.namespaces import FakeNamespaces
from sandnet.kernel.source_policy import policy
from sandnet.kernel.types import (
    Changes,
    DefaultRouteState,
    NamespaceState,
    PackedPrefix,
    PinnedNamespace,
    Port,
    packed_interface,
    packed_prefix,
)
from sandnet.model.address import Interface


class FakeStateReader:
    """See :class:`sandnet.kernel.observation.StateReader`. Each address has its connected route."""

    area = "state_reader"

    def __init__(self, faults: FaultInjector, links: FakeLinks, namespaces: FakeNamespaces) -> None:
        self.faults = faults
        self._links = links
        self._namespaces = namespaces
        self.overflows: dict[int, int] = {}

    @recorded
    def host(self, only: str = "") -> NamespaceState:
        """Read the host's links, or one."""
        names = [name for name in self._links.present if only in ("", name)]
        ports = [self._links.port(name) for name in names]
        kept = {port.link.ifindex: self._links.held.get(port.link.name, []) for port in ports}
        return NamespaceState({port.link.name: port for port in ports}, _held(kept), _routes(kept), ())

    @recorded
    def uplinks(self) -> Collection[tuple[int, str]]:
        """Return no links: the host has no routes."""
        return ()

    @recorded
    def neighbour_overflows(self) -> Mapping[int, int]:
        """Return the counts that a test set."""
        return dict(self.overflows)

    @recorded
    def inside(self, keys: Sequence[str], *, ipv6: bool = True) -> list[PinnedNamespace | None]:
        """Read the namespaces pinned at these keys."""
        return [self._inside(key) for key in keys]

    @recorded
    def pinned(self) -> frozenset[str]:
        """Return all keys."""
        return frozenset(self._namespaces.keys())

    @recorded
    def process_in(self, inode: int) -> int:
        """Return 0: there are no processes."""
        return 0

    @recorded
    def mount_path_of(self, inode: int) -> str:
        """Return no path: no other program pins anything."""
        return ""

    def _inside(self, key: str) -> PinnedNamespace | None:
        found = self._namespaces.identity(key)
        if not found:
            return None
        space = self._namespaces.inside(key)
        loopback = Port(LOOPBACK._replace(up=space.loopback_up), 0, -1, isolated=False, hairpin=False)
        ports = {name: self._links.inner_port(found, name) for name in space.links}
        indexes = {name: port.link.ifindex for name, port in ports.items()}
        kept = {indexes[name]: inner.addresses for name, inner in space.links.items()} | {1: space.loopback}
        rules = policy(space.source_routes, indexes)
        connected = _routes(kept)
        for name, inner in space.links.items():
            on_link = {packed_prefix(destination) for destination, gateway in inner.routes if gateway is None}
            connected[indexes[name]] = connected.get(indexes[name], frozenset()) | on_link
        via = {
            indexes[name]: frozenset((packed_prefix(to), gateway.packed) for to, gateway in inner.routes if gateway)
            for name, inner in space.links.items()
        }
        return PinnedNamespace(
            found, NamespaceState({"lo": loopback, **ports}, _held(kept), connected, _hops(space, indexes), rules, via)
        )


class FakeWatcher:
    """See :class:`sandnet.kernel.observation.Watcher`: it receives nothing."""

    def read(self) -> Changes:
        """Return no changes."""
        nothing = frozenset[str]()
        return Changes({}, nothing, nothing, nothing, {}, frozenset(), mounts=False, rules=False, missed=False)

    def links_into(self, namespace: int) -> Collection[str]:
        """Return no links."""
        return ()

    def name(self, index: int) -> str:
        """Return no name."""
        return ""


def _held(kept: dict[int, list[Interface]]) -> dict[int, frozenset[PackedPrefix]]:
    return {index: frozenset(map(packed_interface, addresses)) for index, addresses in kept.items()}


def _routes(kept: dict[int, list[Interface]]) -> dict[int, frozenset[PackedPrefix]]:
    return {index: frozenset(_destinations(addresses)) for index, addresses in kept.items()}


def _destinations(addresses: Iterable[Interface]) -> Iterable[PackedPrefix]:
    return ((each.network.network_address.packed, each.network.prefixlen) for each in addresses)


def _hops(space: FakeNamespace, indexes: dict[str, int]) -> list[DefaultRouteState]:
    routes = space.default_routes.values()
    return [
        DefaultRouteState(route.gateway.version, route.gateway.packed, indexes.get(route.interface, 0), ours=True)
        for route in routes
    ]
