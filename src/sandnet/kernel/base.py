"""What the program asks of Linux, as six small protocols.

Everything here is synchronous and idempotent ("ensure"): called on worker threads only (see
``workers``), the same call again converges. Failures are ``sandnet.errors.Error`` whose message names
the object; an errno never crosses this seam. ``linux`` is the real thing and ``fake`` an in-memory one
that passes the same contract suite.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

from sandnet.kernel.observation import Processes, StateReader, Watcher
from sandnet.kernel.types import (
    Bridge,
    BridgeRoute,
    DefaultRoute,
    ElementChange,
    Link,
    Listing,
    Namespace,
    RouteSource,
    SourceRoute,
    Veth,
)
from sandnet.model.address import Address, Interface, Prefix

RULES_GONE: Final = "rules_gone"
"""Code of the refusal of a script that builds upon what somebody else removed."""


class HeldPort(Protocol):
    """A host port that is ours until closed: another process that binds it gets EADDRINUSE."""

    @property
    def port(self) -> int:
        """The host port, 1 to 65535."""
        ...

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Links(Protocol):
    """Bridges and veth pairs of the host."""

    def list(self) -> Sequence[Link]:
        """All links of the host's namespace."""
        ...

    def find(self, name: str) -> Link | None:
        """The link of that name, or ``None``."""
        ...

    def ensure_bridge(self, bridge: Bridge) -> None:
        """Make the bridge if it is absent; give it its MTU and addresses; set it up.

        Addresses it has besides are left alone. IPv6 addresses are usable at once (no duplicate address
        detection: nobody else can be on a bridge that we make).

        Raises:
            Error: ``CONFLICT`` when a link of that name is not a bridge.
        """
        ...

    def adopt_bridge(self, bridge: Bridge) -> None:
        """Give an existing bridge the addresses it lacks and set it up.

        Raises:
            Error: ``NOT_FOUND`` when there is no link of that name, ``CONFLICT`` when it is no bridge.
        """
        ...

    def remove_addresses(self, name: str, addresses: Iterable[Interface]) -> None:
        """Take the addresses off the link; an absent link or address is success."""
        ...

    def addresses(self, name: str) -> Sequence[Interface]:
        """The addresses on a link; empty when it is absent."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete links in bulk (one grace period for all); absent ones are success."""
        ...

    def plug(self, namespace: str, veth: Veth) -> None:
        """Ensure the pair: the host end on the bridge and up, the other end in the namespace pinned at
        ``namespace`` with its name, MAC, MTU and addresses, and up.

        Raises:
            Error: ``NOT_FOUND`` the namespace or the bridge is gone; ``EXHAUSTED`` with code
                ``network_full`` the bridge is at the kernel's 1,023 ports (below BR_MAX_PORTS);
                ``CONFLICT`` the interface's name is taken in the namespace.

        The holder of a service address tells the neighbours so at each call.
        """
        ...

    def remove_service_addresses(self, namespace: str, addresses: Iterable[Interface]) -> None:
        """Take service addresses off ``lo`` in the namespace pinned at ``namespace``, which lives on after its
        interface is gone. An absent namespace or address is success."""
        ...

    def retire(self, host_links: Iterable[str]) -> None:
        """Silence links at once (down, without a mark, in the group of the dead); ``reap`` deletes them. Absent:
        success."""
        ...

    def reap(self) -> None:
        """Delete all retired links in one request."""
        ...

    def solicit(self, names: Iterable[str]) -> None:
        """Ask the routers on these links to advertise themselves; one that is down, or without IPv6, is passed over."""
        ...


class Namespaces(Protocol):
    """Network namespaces pinned at paths."""

    def make(self, key: str) -> Namespace:
        """Ensure a new namespace with ``lo`` up, pinned at ``key``. One that is pinned there already is kept.

        Parent directories are made (0755); neither they nor the file may be symlinks below the
        configured sandbox directory.

        Raises:
            Error: ``CONFLICT`` when something that is no namespace lives at ``key``.
        """
        ...

    def pin(self, key: str, *, path: str = "", pid: int = 0, inode: int = 0) -> Namespace:
        """Ensure that the existing namespace at ``path`` or of process ``pid`` is pinned at ``key``, ``lo`` up.

        With neither: the namespace the daemon itself lives in (``lo`` is then left alone).

        Args:
            key: where to pin it.
            path: a file that is the namespace.
            pid: a process in it.
            inode: what it must be; 0: whatever it is.

        Raises:
            Error: ``NOT_FOUND`` no such file or process; ``INVALID`` the file is no network namespace;
                ``CONFLICT`` it has another identity, or another one is pinned there.
        """
        ...

    def identify(self, *, path: str = "", pid: int = 0) -> Namespace:
        """The namespace that :meth:`pin` would pin, as it is now; its ``key`` is empty.

        Raises:
            Error: as :meth:`pin`.
        """
        ...

    def find(self, key: str) -> Namespace | None:
        """What is pinned at ``key``, or ``None``."""
        ...

    def release(self, key: str, *, inode: int = 0, loopback_down: bool = False) -> None:
        """Unpin; a namespace nobody else holds is gone with that. Absent: success.

        Args:
            key: where it is pinned.
            inode: leave alone what has another identity; 0: whatever is pinned there.
            loopback_down: set ``lo`` down first (a joined namespace is given back as it was).
        """
        ...

    def default_routes(self, key: str, routes: Sequence[DefaultRoute]) -> None:
        """Make these, at most one a family, the sandbox's only default routes of ours.

        A default route that somebody else put there stays, and wins.
        """
        ...

    def source_routes(self, key: str, routes: Sequence[SourceRoute]) -> None:
        """Make a sandbox answer by the interface that it was asked by: these are then the only rules and routes of this
        kind that bear our mark. Interfaces that are absent are passed over.

        Raises:
            Error: ``NOT_FOUND`` the namespace is gone (never without routes).
        """
        ...

    def set_link_down(self, key: str, interface: str) -> None:
        """Set a link inside down and take its addresses off it; an absent link or namespace is success."""
        ...

    def tcp_socket(self, key: str, inode: int) -> socket.socket:
        """An unconnected IPv4 TCP socket that lives in the namespace pinned at ``key``; the caller closes it.

        Raises:
            Error: ``NOT_FOUND`` no namespace, or one of another identity, is there.
        """
        ...

    def interfaces(self, key: str) -> Sequence[str]:
        """Names of the links inside, ``lo`` included; empty when nothing is pinned there."""
        ...


class Firewall(Protocol):
    """nftables, written to, and read only to see whether others changed it."""

    def apply(self, script: str) -> None:
        """Run an nft script as one transaction: all of it or nothing.

        Raises:
            Error: ``UNAVAILABLE``, with code ``RULES_GONE`` when a table, set or element that the script names is not
                there.
        """
        ...

    def change(self, elements: Sequence[ElementChange]) -> None:
        """The same for elements alone, in a fifth of the time. One that comes may be there; one that goes must be.

        Raises:
            Error: as :meth:`apply`.
        """
        ...

    def listing(self, table: str) -> Listing | None:
        """A table (``inet sandnet``) as it is in the kernel; ``None``: there is none."""
        ...

    def members(self, table: str, name: str) -> frozenset[str]:
        """The elements of one set, one that rules write to included; none where it is not there."""
        ...

    def foreign_generation(self) -> int:
        """0 when every transaction since the last :meth:`account` was ours; else a number to account for."""
        ...

    def acknowledge(self, generation: int) -> None:
        """What others did up to this number has been looked at."""
        ...

    def forget_flows(
        self,
        *,
        addresses: Iterable[Address] = (),
        bound: Iterable[tuple[int, int]] = (),
        live: Iterable[Address] = (),
    ) -> None:
        """Drop conntrack entries that a changed mapping has made wrong.

        Args:
            addresses: forget every translated flow that goes to one of these (a mapping was removed).
            bound: forget UDP and SCTP flows to these (protocol, host port) that predate a mapping.
            live: where the mapping leads; flows to ``bound`` that one of these answers are right and stay.
        """
        ...


class Sysctl(Protocol):
    """Kernel parameters by their path below ``/proc/sys`` (``net/ipv4/ip_forward``; link names may hold dots)."""

    def get(self, name: str) -> str | None:
        """The value, or ``None`` where the kernel has no such parameter."""
        ...

    def is_writable(self, name: str) -> bool:
        """Return whether a parameter can be written: ``/proc/sys``, or a part of it, may be mounted read-only."""
        ...

    def set(self, name: str, value: str) -> None:
        """Write it.

        Raises:
            Error: ``UNAVAILABLE`` when the parameter is missing or read-only.
        """
        ...


class Host(Protocol):
    """Facts about the host, and its ports."""

    def occupied(self, ignore: Collection[str] = ()) -> Sequence[Prefix]:
        """Prefixes a new subnet must not overlap: routes (default routes aside), addresses and nameservers.

        What sits on the links named in ``ignore`` is left out. The cost does not grow with the number of
        routes: changes are followed, the whole table is read once.
        """
        ...

    def local_port_range(self) -> tuple[int, int]:
        """``net.ipv4.ip_local_port_range``, both ends included."""
        ...

    def reserved_ports(self) -> Collection[int]:
        """``net.ipv4.ip_local_reserved_ports``: given to nobody who does not ask for them by number."""
        ...

    def is_preferred(self, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
        """Whether what goes to the bridges of ``needed`` gets there, whatever rules for routing others have made, and
        nothing that is neither there nor in ``allowed`` does. A rule of ours that is no longer needed may be there."""
        ...

    def prefer(self, routes: Sequence[BridgeRoute]) -> None:
        """Make it so. Where others have no rules there is none of ours; without routes all of ours is taken back."""
        ...

    def route_sources(self) -> Sequence[RouteSource]:
        """Destinations whose route prefers another source (``ip route ... src``) than masquerading would choose.

        No two of one link overlap. Cheap where no route has changed; late by a part of a second where many change.
        """
        ...

    def hold(self, proto: int, address: Address, port: int) -> HeldPort:
        """Bind a host port (0: the kernel's choice) so that nobody else can.

        Raises:
            Error: ``CONFLICT`` it is taken (code ``port_taken``) or the address is not this host's
                (code ``address_not_local``).
        """
        ...

    def missing_features(self) -> dict[str, str]:
        """Kernel features that are absent, each with the reason in words.

        Keys: ``bridge``, ``veth``, ``nftables``, ``namespaces``, ``ipv6``, ``sctp``.
        """
        ...


class Kernel(Protocol):
    """The eight together, as the composition root hands them on."""

    @property
    def links(self) -> Links:
        """See :class:`Links`."""
        ...

    @property
    def namespaces(self) -> Namespaces:
        """See :class:`Namespaces`."""
        ...

    @property
    def firewall(self) -> Firewall:
        """See :class:`Firewall`."""
        ...

    @property
    def sysctl(self) -> Sysctl:
        """See :class:`Sysctl`."""
        ...

    @property
    def host(self) -> Host:
        """See :class:`Host`."""
        ...

    @property
    def survey(self) -> StateReader:
        """See :class:`sandnet.kernel.observation.StateReader`."""
        ...

    @property
    def processes(self) -> Processes:
        """See :class:`Processes`."""
        ...

    @property
    def watch(self) -> Watcher:
        """See :class:`sandnet.kernel.observation.Watcher`."""
        ...
