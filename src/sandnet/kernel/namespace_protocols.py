"""What the program needs from Linux about network namespaces, as three protocols; see :mod:`sandnet.kernel.base`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from sandnet.kernel.types import (
    DefaultRoute,
    InnerTap,
    InspectedNamespace,
    Macvlan,
    MovedLink,
    Namespace,
    PoolStatus,
    PreparedSandbox,
    SourceRoute,
    Veth,
)
from sandnet.model.address import Interface

KEY_TAKEN: Final = "key_taken"
"""Error code: another program's namespace is pinned at a sandbox key."""


class Namespaces(Protocol):
    """Network namespaces pinned at paths."""

    def key_of(self, path: str) -> str:
        """Return a path as a key, where its directory is the sandbox directory by another name; else the path itself.

        ``/var/run`` is a symlink to ``/run``, and engines name either.
        """
        ...

    def make(self, key: str) -> Namespace:
        """Ensure a new namespace with ``lo`` up, pinned at ``key``. One that is pinned there already is kept.

        Parent directories are made (0755); neither they nor the file may be symlinks below the configured sandbox
        directory.

        Raises:
            Error: ``CONFLICT`` when something that is no namespace is at ``key``.
        """
        ...

    def pin(self, key: str, *, path: str = "", pid: int = 0, inode: int = 0) -> Namespace:
        """Ensure that the existing namespace at ``path`` or of process ``pid`` is pinned at ``key``, ``lo`` up.

        With neither: the daemon's own namespace (``lo`` is then left alone).

        Args:
            key: where to pin it.
            path: a file that is the namespace.
            pid: a process in it.
            inode: the identity it must have; 0: any.

        Raises:
            Error: ``NOT_FOUND`` no such file or process; ``INVALID`` the file is no network namespace; ``CONFLICT`` it
                has another identity, or another one is pinned there.
        """
        ...

    def pin_prepared(self, key: str, prepared: PreparedSandbox) -> None:
        """Pin a prepared namespace at ``key``. Where it is pinned already, nothing happens.

        Raises:
            Error: ``CONFLICT`` with code ``KEY_TAKEN`` another namespace is pinned there; ``CONFLICT`` something that
                is no namespace is there.
        """
        ...

    def identify(self, *, path: str = "", pid: int = 0) -> Namespace:
        """Return the namespace that :meth:`pin` would pin, as it is now; its ``key`` is empty.

        Raises:
            Error: as :meth:`pin`.
        """
        ...

    def inspect(self, *, path: str = "", pid: int = 0) -> InspectedNamespace:
        """Return the namespace that :meth:`pin` would pin, with the names of the links inside; nothing is changed.

        Raises:
            Error: as :meth:`pin`.
        """
        ...

    def leads_to(self, path: str, inode: int) -> bool:
        """Return whether the file at ``path`` is the network namespace with that inode number.

        Raises:
            Error: ``UNAVAILABLE`` that cannot be read.
        """
        ...

    def find(self, key: str) -> Namespace | None:
        """Return the namespace pinned at ``key``, or ``None``."""
        ...

    def release(self, key: str, *, inode: int = 0, loopback_down: bool = False) -> None:
        """Unpin; the kernel deletes a namespace that nothing else holds. Absent: success.

        Args:
            key: where it is pinned.
            inode: leave alone what has another identity, be it a namespace or not; 0: any namespace is ours.
            loopback_down: set ``lo`` down first (a joined namespace is returned as it was).

        Raises:
            Error: ``CONFLICT`` without an inode: something that is no namespace is at ``key``; it stays.
        """
        ...

    def default_routes(self, key: str, routes: Sequence[DefaultRoute]) -> None:
        """Make these, at most one a family, the sandbox's only default routes of ours.

        A default route that another program put there stays, and takes precedence.
        """
        ...

    def source_routes(self, key: str, routes: Sequence[SourceRoute]) -> None:
        """Make a sandbox answer through the interface on which the request arrived.

        These are then the only rules and routes of this kind that bear our protocol number. Absent interfaces are
        skipped.

        Raises:
            Error: ``NOT_FOUND`` the namespace does not exist (never without routes).
        """
        ...

    def set_link_down(self, key: str, interface: str) -> None:
        """Set a link inside down and remove its addresses; an absent link or namespace is success."""
        ...

    def tcp_socket(self, key: str, inode: int) -> socket.socket:
        """Return an unconnected IPv4 TCP socket in the namespace pinned at ``key``; the caller closes it.

        Raises:
            Error: ``NOT_FOUND`` no namespace, or one of another identity, is there.
        """
        ...

    def interfaces(self, key: str) -> Sequence[str]:
        """List the names of the links inside, ``lo`` included; empty when nothing is pinned there."""
        ...


class InterfaceSettings(Protocol):
    """Static routes, kernel parameters and taps of interfaces in sandboxes."""

    def ensure(self, namespace: str, veth: Veth) -> None:
        """Ensure the routes and parameters of the interface in the namespace pinned at ``namespace``.

        Raises:
            Error: ``NOT_FOUND`` the namespace or the interface does not exist; ``CONFLICT`` with code ``route_taken``
                another program has a route to one of the destinations; ``INVALID`` the kernel refuses a value.
        """
        ...

    def parameters(self, namespace: str, names: Collection[str]) -> Mapping[str, str]:
        """Return the values of parameters in a namespace, by their paths; absent ones are left out."""
        ...

    def ensure_tap(self, namespace: str, veth: Veth, tap: InnerTap) -> None:
        """Ensure a tap in the namespace pinned at ``namespace`` that is joined to the interface: each sends what the
        other receives. A tap that exists keeps its owner: an emulator may have it open.

        Raises:
            Error: ``NOT_FOUND`` the namespace or the interface does not exist; ``UNAVAILABLE`` with code ``no_taps``
                the kernel makes none; ``CONFLICT`` with code ``interface_taken`` another link has its name.
        """
        ...

    def tap_problem(self, namespace: str, veth: Veth, tap: InnerTap) -> str:
        """Return what is wrong with a tap inside, as text; empty: nothing."""
        ...

    def remove_tap(self, namespace: str, name: str) -> None:
        """Delete a tap inside; an absent one, or an absent namespace, is success."""
        ...


class SuppliedLinks(Protocol):
    """Links that other programs made on the host, and that move into a namespace."""

    def stacking_problem(self, kind: str) -> str:
        """Return why no interface of a kind that is stacked on a parent can be made here, as text; empty: they can."""
        ...

    def make_macvlan(self, link: Macvlan) -> None:
        """Make a macvlan interface on the host, down; one of that name is kept.

        Raises:
            Error: ``NOT_FOUND`` there is no such parent; ``CONFLICT`` a link of another kind has the name.
        """
        ...

    def place(self, namespace: str, link: MovedLink) -> None:
        """Ensure that the link is in the namespace pinned at ``namespace``: named, addressed, routed and up.

        A link that is there already stays, and gets what it lacks.

        Raises:
            Error: ``NOT_FOUND`` the namespace; ``CONFLICT`` with code ``link_missing``, ``interface_taken``, or
                ``link_in_use``: the host uses it (its loopback, a link of sandnet's own, a bridge or a port of one, one
                with addresses or routes, one that others are stacked on).
        """
        ...

    def remove_address(self, namespace: str, alias: str, address: Interface) -> None:
        """Remove an address from a placed link; an absent address, link or namespace is success."""
        ...

    def withdraw(self, namespace: str, source: str, alias: str) -> None:
        """Move a placed link back to the host, down, with its former name; an absent link or namespace is success.

        If the host has another link of that name, a virtual one is deleted.

        Raises:
            Error: ``CONFLICT``: the same, and it is a device that cannot be deleted.
        """
        ...

    def is_placed(self, namespace: str, alias: str) -> bool:
        """Return whether a link with that alias is in the namespace pinned at ``namespace``."""
        ...


class SandboxPool(Protocol):
    """Sandboxes that are prepared before a join asks for one. Each is handed out at most once; none returns.

    The caller owns a sandbox that it got. It closes the descriptors by :meth:`discard`, also after it has pinned the
    namespace: a pinned namespace remains, with its links. Sockets that it passed on are no longer its own.
    """

    def take(self) -> PreparedSandbox | None:
        """Return a prepared sandbox; ``None``: there is none. Call it on the event loop; it does not block.

        A sandbox whose host link was deleted or renamed by another program is not returned.
        """
        ...

    def prepare(self) -> PreparedSandbox:
        """Make a prepared sandbox now; call it on a worker thread.

        Raises:
            Error: ``EXHAUSTED`` the limit ``user.max_net_namespaces`` is reached; ``UNAVAILABLE`` the kernel refuses.
        """
        ...

    def discard(self, prepared: PreparedSandbox) -> None:
        """Close the descriptors; call it from any thread, once.

        The kernel deletes the namespace, unless it is pinned or a process is inside.
        """
        ...

    def status(self) -> PoolStatus:
        """Return the pool's state and its counts."""
        ...

    def start(self, is_busy: Callable[[], bool]) -> None:
        """Fill the pool in the background from now on, on the running event loop.

        Args:
            is_busy: returns whether the daemon changes something at the moment; the pool is filled at other times.
        """
        ...

    async def stop(self) -> None:
        """Stop filling and close the prepared sandboxes; the pool is off then."""
        ...
