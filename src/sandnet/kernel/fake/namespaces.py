"""The network namespaces of the in-memory kernel."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from typing import Final

from sandnet.errors import Error, Kind, invalid, not_found
from sandnet.kernel.fake.common import FakeNamespace, FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.namespace_protocols import KEY_TAKEN
from sandnet.kernel.types import DefaultRoute, InspectedNamespace, Namespace, PreparedSandbox, SourceRoute

HOST_NAMESPACE: Final = 4026531840


class FakeNamespaces:
    """See :class:`sandnet.kernel.namespace_protocols.Namespaces`."""

    area = "namespaces"

    def __init__(
        self,
        faults: FaultInjector,
        links: FakeLinks,
        spaces: dict[int, FakeNamespace],
        pins: dict[str, int],
        sandbox_dir: str,
    ) -> None:
        self.faults = faults
        self._root = sandbox_dir
        self.obstacles: set[str] = set()
        """Keys at which there is something that is no namespace."""
        self._links = links
        self._spaces = spaces
        self._pins = pins
        self._foreign: dict[str | int, int] = {"": HOST_NAMESPACE}
        self._inodes = itertools.count(HOST_NAMESPACE + 1)

    def add_foreign(self, where: str | int, *, loopback_up: bool = False) -> FakeNamespace:
        """Add a namespace that another program made, at a path or of a process; it stays when it is not pinned."""
        inode = self._foreign[where] = next(self._inodes)
        space = self._spaces[inode] = FakeNamespace(loopback_up)
        return space

    def inside(self, key: str) -> FakeNamespace:
        """Return the state of the namespace pinned at ``key``.

        Raises:
            KeyError: nothing is pinned there.
        """
        return self._spaces[self._pins[key]]

    def identity(self, key: str) -> int:
        """Return the inode of the namespace pinned at ``key``; 0: none."""
        return self._pins.get(key, 0)

    def keys(self) -> Sequence[str]:
        """List where namespaces are pinned."""
        return [*self._pins]

    def new_inode(self) -> int:
        """Return the identity of a new namespace."""
        return next(self._inodes)

    def drop_unpinned(self, inode: int) -> None:
        """Delete a namespace and its links, unless it is pinned or another program's."""
        if inode in self._spaces and inode not in {*self._pins.values(), *self._foreign.values()}:
            self._links.drop_peers(inode)
            del self._spaces[inode]

    def key_of(self, path: str) -> str:
        """Return the path: there are no symlinks."""
        return path

    @recorded
    def make(self, key: str) -> Namespace:
        """Ensure a new namespace."""
        self._check(key)
        if key not in self._pins:
            inode = self._pins[key] = next(self._inodes)
            self._spaces[inode] = FakeNamespace(loopback_up=False)
        return self._with_loopback(key)

    @recorded
    def pin(self, key: str, *, path: str = "", pid: int = 0, inode: int = 0) -> Namespace:
        """Ensure that the existing namespace is pinned."""
        self._check(key)
        found = self._source(path, pid)
        if inode not in (0, found):
            raise Error(Kind.CONFLICT, f"{path or f'process {pid}'} is in another namespace by now")
        if self._pins.setdefault(key, found) != found:
            raise Error(Kind.CONFLICT, f"another namespace is pinned at {key}", "release it first")
        return self._with_loopback(key) if path or pid else self._described(key)

    @recorded
    def pin_prepared(self, key: str, prepared: PreparedSandbox) -> None:
        """Pin a prepared namespace."""
        self._check(key)
        if self._pins.setdefault(key, prepared.inode) != prepared.inode:
            raise Error(Kind.CONFLICT, f"another namespace is pinned at {key}", code=KEY_TAKEN)

    @recorded
    def identify(self, *, path: str = "", pid: int = 0) -> Namespace:
        """Return the namespace as it is now."""
        inode = self._source(path, pid)
        return Namespace("", inode, self._spaces[inode].loopback_up)

    @recorded
    def inspect(self, *, path: str = "", pid: int = 0) -> InspectedNamespace:
        """Return the namespace and what is inside."""
        inode = self._source(path, pid)
        is_own = inode == HOST_NAMESPACE
        links = () if is_own else ("lo", *self._spaces[inode].links)
        return InspectedNamespace(inode, is_own, not is_own and self._spaces[inode].loopback_up, links)

    @recorded
    def leads_to(self, path: str, inode: int) -> bool:
        """Return whether the namespace at ``path`` is that one."""
        try:
            return self._source(path, 0) == inode
        except Error:
            return False

    @recorded
    def find(self, key: str) -> Namespace | None:
        """Return the pinned namespace, or ``None``."""
        self._check(key)
        return self._described(key) if key in self._pins else None

    @recorded
    def release(self, key: str, *, inode: int = 0, loopback_down: bool = False) -> None:
        """Unpin."""
        if key in self.obstacles and inode:
            return
        self._check(key)
        if key not in self._pins or inode not in (0, self._pins[key]):
            return
        pinned = self._pins.pop(key)
        if loopback_down:
            self._spaces[pinned].loopback_up = False
        self.drop_unpinned(pinned)

    @recorded
    def default_routes(self, key: str, routes: Sequence[DefaultRoute]) -> None:
        """Make these the only default routes."""
        if key not in self._pins:
            if routes:
                raise not_found("namespace", key)
            return
        space = self.inside(key)
        for route in routes:
            if route.interface not in space.links:
                raise not_found("link", f"{route.interface} in {key}")
        space.default_routes = {route.gateway.version: route for route in routes}

    @recorded
    def source_routes(self, key: str, routes: Sequence[SourceRoute]) -> None:
        """Make these the only source routes."""
        if key in self._pins:
            space = self.inside(key)
            space.source_routes = tuple(route for route in routes if route.interface in space.links)
        elif routes:
            raise not_found("namespace", key)

    @recorded
    def set_link_down(self, key: str, interface: str) -> None:
        """Remove the addresses of the link."""
        if key in self._pins and interface in self.inside(key).links:
            self.inside(key).links[interface].addresses.clear()

    @recorded
    def tcp_socket(self, key: str, inode: int) -> socket.socket:
        """Raise an error: the in-memory kernel has no sockets."""
        if self._pins.get(key) != inode:
            raise not_found("namespace", key)
        raise Error(Kind.UNAVAILABLE, "the in-memory kernel has no sockets")

    @recorded
    def interfaces(self, key: str) -> Sequence[str]:
        """List the names of the links inside."""
        return ["lo", *self.inside(key).links] if key in self._pins else []

    def _check(self, key: str) -> None:
        if not key.startswith(f"{self._root}/") or ".." in key.split("/"):
            raise invalid(f"sandbox key {key!r} is not a path below {self._root}")
        if key in self.obstacles:
            raise Error(Kind.CONFLICT, f"{key} is there and is no network namespace", "move it away")

    def _source(self, path: str, pid: int) -> int:
        where = path or pid or ""
        inode = self._foreign.get(where, self._pins.get(path))
        if inode is None:
            raise not_found("namespace", path or f"process {pid}")
        return inode

    def _described(self, key: str) -> Namespace:
        return Namespace(key, self._pins[key], self.inside(key).loopback_up)

    def _with_loopback(self, key: str) -> Namespace:
        found = self._described(key)
        self.inside(key).loopback_up = True
        return found
