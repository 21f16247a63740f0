"""The pool of prepared sandboxes of the in-memory kernel."""

from __future__ import annotations

import socket
from collections.abc import Callable

from sandnet.kernel.fake.common import FakeNamespace, FaultInjector, InnerEnd, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.fake.namespaces import FakeNamespaces
from sandnet.kernel.types import PoolStatus, PreparedSandbox
from sandnet.model.ids import new_id
from sandnet.model.link_names import port_name

_INTERFACE = "eth0"


class FakeSandboxPool:
    """See :class:`sandnet.kernel.namespace_protocols.SandboxPool`. It holds what tests put into ``ready``."""

    area = "pool"

    def __init__(
        self,
        faults: FaultInjector,
        links: FakeLinks,
        namespaces: FakeNamespaces,
        spaces: dict[int, FakeNamespace],
    ) -> None:
        self.faults = faults
        self.ready: list[PreparedSandbox] = []
        self._links = links
        self._namespaces = namespaces
        self._spaces = spaces
        self._handed_out = self._misses = self._inline = 0

    @recorded
    def take(self) -> PreparedSandbox | None:
        """Return the oldest of ``ready`` whose link exists."""
        while self.ready:
            prepared = self.ready.pop(0)
            if prepared.host_link in self._links.present:
                self._handed_out += 1
                return prepared
        self._misses += 1
        return None

    @recorded
    def prepare(self) -> PreparedSandbox:
        """Make one now."""
        inode = self._namespaces.new_inode()
        space = self._spaces[inode] = FakeNamespace(loopback_up=True)
        host_link = port_name(new_id())
        index = self._links.add_prepared(host_link, inode, _INTERFACE)
        space.links[_INTERFACE] = InnerEnd("02:00:00:00:00:02", 1500, [])
        self._inline += 1
        sockets = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        return PreparedSandbox(-1, inode, host_link, index, _INTERFACE, index, sockets)

    def discard(self, prepared: PreparedSandbox) -> None:
        """Delete it, unless it is pinned."""
        for each in prepared.sockets or ():
            each.close()
        self._namespaces.drop_unpinned(prepared.inode)

    def status(self) -> PoolStatus:
        """Return the counts."""
        ready = len(self.ready)
        return PoolStatus(ready, ready, ready, self._handed_out, self._misses, self._inline, 0, 0, 0, "")

    def start(self, is_busy: Callable[[], bool]) -> None:
        """Do nothing: only tests fill this pool."""

    async def stop(self) -> None:
        """Discard what is ready."""
        while self.ready:
            self.discard(self.ready.pop())
