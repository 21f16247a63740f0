"""What is in the kernel, as it is told in bulk: the facts that records are held against.

Nothing here decides or changes anything. Addresses are bytes, as the kernel tells them: a thousand sandboxes
have some thousand of them, and an address object costs more than the comparison it is made for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from sandnet.model.address import Address, Interface, Prefix

Held = tuple[bytes, int]
"""An address or a prefix in network order, and its length."""


def held(interface: Interface) -> Held:
    """An address as the kernel tells it."""
    return interface.ip.packed, interface.network.prefixlen


def alone(address: Address) -> Held:
    """An address that stands for itself only, without a subnet."""
    return address.packed, address.max_prefixlen


def held_on(space: Space, index: int) -> frozenset[Held]:
    """The addresses on a link."""
    return space.addresses.get(index, frozenset())


def route_to(prefix: Prefix) -> Held:
    """The destination of a connected route."""
    return prefix.network_address.packed, prefix.prefixlen


class Link(NamedTuple):
    """A network device of the host."""

    name: str
    ifindex: int
    kind: str
    """``bridge``, ``veth``, …; empty for a physical device and ``lo``."""
    master: int
    """Index of the bridge it is a port of; 0: none."""
    up: bool
    mtu: int
    mac: str
    group: int
    alias: str = ""
    """What it says of itself (``sandnet.model.marks``)."""
    snooping: bool = False
    """A bridge that learns from its ports who listens to which multicast group."""


class Port(NamedTuple):
    """A link of the host, what it is a port of, and where its other end is."""

    link: Link
    peer: int
    """Index of the other end of a veth pair, in its own namespace; 0: none."""
    peer_namespace: int
    """The host's number for the namespace of the other end (``ip netns list-id``); -1: its own, or none."""
    isolated: bool
    hairpin: bool
    """The two options of a bridge port; false of what is none."""


class DefaultHop(NamedTuple):
    """One way of a default route of the main table."""

    version: int
    """4 or 6."""
    gateway: bytes
    """Empty: everything is on the link."""
    ifindex: int
    ours: bool
    """It bears our mark (``rtm_protocol``)."""


class PolicyRule(NamedTuple):
    """A rule of ours that chooses a routing table (ip-rule(8))."""

    version: int
    """4 or 6."""
    priority: int
    """The lowest is asked first."""
    source: bytes
    """The one address that packets come from, in network order; empty: any."""
    ports: tuple[int, int]
    """UDP ports that packets come from, the first and the last; two zeros: any, of any protocol."""
    table: int
    specific: bool
    """The default route of the table does not count (``suppress_prefixlength 0``)."""


class PolicyRoute(NamedTuple):
    """A route of a table of ours."""

    version: int
    table: int
    destination: Held
    gateway: bytes
    """Empty: the destination is on the link."""
    ifindex: int
    source: bytes
    """The address that packets get which have none yet."""


class Policy(NamedTuple):
    """How a namespace routes by source: all that bears our mark."""

    rules: frozenset[PolicyRule] = frozenset()
    routes: frozenset[PolicyRoute] = frozenset()


class Space(NamedTuple):
    """A network namespace: links by name; addresses, and destinations of routes, by index of the link."""

    links: Mapping[str, Port]
    addresses: Mapping[int, frozenset[Held]]
    connected: Mapping[int, frozenset[Held]]
    """Routes without a gateway in the main table."""
    defaults: Sequence[DefaultHop]
    policy: Policy = Policy()
    """Of a sandbox."""


class Inside(NamedTuple):
    """A sandbox's namespace."""

    inode: int
    """Its identity, as ``stat`` of its file shows it."""
    space: Space
    whole: bool = True
    """Whether all of it was read; otherwise ``space`` is empty, as there is more than one look may read."""


class Listing(NamedTuple):
    """An nftables table."""

    frame: str
    """Its sets, chains and rules as text, without elements."""
    elements: Mapping[str, frozenset[str]]
    """By set or map: each element as ``add element`` writes it, ``key`` or ``key : value``, numbers as numbers. Sets
    that rules write to are left out."""


class News(NamedTuple):
    """What others, and we ourselves, have changed since the last news."""

    links: Mapping[str, Port]
    """Links of the host that changed, as they are now."""
    gone: frozenset[str]
    """Links of the host that were deleted."""
    lost: frozenset[str]
    """Links of the host that lost an address or a route, or began or ceased to forward."""
    grown: frozenset[str]
    """Links of the host that got one; empty for a route without a link."""
    inner: Mapping[int, Sequence[Port]]
    """By the host's number for their namespace: links inside that changed, as they are now."""
    poorer: frozenset[int]
    """Namespaces, likewise, in which a link, an address, a route or a rule was deleted."""
    mounts: bool
    """The table of mounts changed."""
    rules: bool
    """Others changed nftables."""
    missed: bool
    """The kernel could not keep all news for us: anything may have changed."""


class Watch(Protocol):
    """Hears of changes. Synchronous; called on worker threads, by one at a time."""

    def read(self) -> News:
        """What has gathered since the last call; the first one begins."""
        ...

    def namespaces(self) -> Mapping[str, int]:
        """By link of the host: the number of the namespace its other end is in, as far as we heard."""
        ...

    def name(self, index: int) -> str:
        """The host's link of that index, as far as we heard; empty: none."""
        ...


class Survey(Protocol):
    """Reads many things at once. Synchronous; called on worker threads."""

    def host(self, only: str = "") -> Space:
        """The host's own namespace, or one link of it with its addresses and routes."""
        ...

    def uplinks(self) -> Collection[tuple[int, str]]:
        """Return the links of the host by which a whole half of the addresses or more is reached.

        A default route may have several ways, no gateway, or a table of its own; VPN clients make it of two halves.

        Returns:
            The version of IP, and the name of the link.
        """
        ...

    def neighbour_overflows(self) -> Mapping[int, int]:
        """Return how often the kernel had no room for one more neighbour, by version of IP.

        The table is one for all network namespaces; only the first namespace can read this.
        """
        ...

    def inside(self, keys: Sequence[str], *, ipv6: bool = True) -> list[Inside | None]:
        """What is pinned at each of these keys, in order; ``None``: no namespace, or one that cannot be read.

        Args:
            keys: paths below the sandbox directory.
            ipv6: whether IPv6 routes are wanted.
        """
        ...

    def pinned(self) -> frozenset[str]:
        """Paths below the sandbox directory on which something is mounted."""
        ...

    def lives_in(self, inode: int) -> int:
        """A process in the network namespace of that identity; 0: none."""
        ...

    def mounted_at(self, inode: int) -> str:
        """A path at which the network namespace of that identity is mounted; empty: none."""
        ...
