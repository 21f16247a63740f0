"""What is in the kernel, as it is told in bulk: the facts that records are held against.

Nothing here decides or changes anything. Addresses are bytes, as the kernel tells them: a thousand sandboxes
have some thousand of them, and an address object costs more than the comparison it is made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final, NamedTuple

from sandnet.model.address import Address, Interface, Prefix

PackedPrefix = tuple[bytes, int]
"""An address or a prefix in network order, and its length."""


def packed_interface(interface: Interface) -> PackedPrefix:
    """An address as the kernel tells it."""
    return interface.ip.packed, interface.network.prefixlen


def host_prefix(address: Address) -> PackedPrefix:
    """An address that stands for itself only, without a subnet."""
    return address.packed, address.max_prefixlen


def packed_addresses_on(space: NamespaceState, index: int) -> frozenset[PackedPrefix]:
    """The addresses on a link."""
    return space.addresses.get(index, frozenset())


def packed_prefix(prefix: Prefix) -> PackedPrefix:
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
    """What it says of itself (``sandnet.model.link_alias``)."""
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


class DefaultRouteState(NamedTuple):
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
    destination: PackedPrefix
    gateway: bytes
    """Empty: the destination is on the link."""
    ifindex: int
    source: bytes
    """The address that packets get which have none yet."""


class Policy(NamedTuple):
    """How a namespace routes by source: all that bears our mark."""

    rules: frozenset[PolicyRule] = frozenset()
    routes: frozenset[PolicyRoute] = frozenset()


class NamespaceState(NamedTuple):
    """A network namespace: links by name; addresses, and destinations of routes, by index of the link."""

    links: Mapping[str, Port]
    addresses: Mapping[int, frozenset[PackedPrefix]]
    connected: Mapping[int, frozenset[PackedPrefix]]
    """Routes without a gateway in the main table."""
    defaults: Sequence[DefaultRouteState]
    policy: Policy = Policy()
    """Of a sandbox."""


class PinnedNamespace(NamedTuple):
    """A sandbox's namespace."""

    inode: int
    """Its identity, as ``stat`` of its file shows it."""
    space: NamespaceState
    whole: bool = True
    """Whether all of it was read; otherwise ``space`` is empty, as there is more than one look may read."""


class Listing(NamedTuple):
    """An nftables table."""

    structure: str
    """Its sets, chains and rules as text, without elements."""
    elements: Mapping[str, frozenset[str]]
    """By set or map: each element as ``add element`` writes it, ``key`` or ``key : value``, numbers as numbers. Sets
    that rules write to are left out."""


class Changes(NamedTuple):
    """What others, and we ourselves, have changed since the last news."""

    links: Mapping[str, Port]
    """Links of the host that changed, as they are now."""
    deleted: frozenset[str]
    """Links of the host that were deleted."""
    reduced: frozenset[str]
    """Links of the host that lost an address or a route, or began or ceased to forward."""
    extended: frozenset[str]
    """Links of the host that got one; empty for a route without a link."""
    in_namespaces: Mapping[int, Sequence[Port]]
    """By the host's number for their namespace: links inside that changed, as they are now."""
    reduced_namespaces: frozenset[int]
    """Namespaces, likewise, in which a link, an address, a route or a rule was deleted."""
    mounts: bool
    """The table of mounts changed."""
    rules: bool
    """Others changed nftables."""
    missed: bool
    """The kernel could not keep all news for us: anything may have changed."""


class Bridge(NamedTuple):
    """A bridge device as it should be."""

    name: str
    mtu: int
    """0: the kernel's default."""
    addresses: tuple[Interface, ...]
    alias: str = ""
    """What it is to say of itself, at most 255 bytes; empty: nothing, or what it says stays."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Kernel parameters, as paths below ``/proc/sys``, and their values. They are in force before it is up: IPv6 may be
    off for new links, and takes no address then."""


class BridgeRoute(NamedTuple):
    """What leads from the host to the sandboxes of a bridge."""

    prefix: Prefix
    link: str
    source: Address | None
    """The host's own address there."""


class RouteSource(NamedTuple):
    """Destinations that packets leave for by a link from a source that their route prefers."""

    link: str
    first: Address
    last: Address
    """Of the destinations, included."""
    source: Address


class Veth(NamedTuple):
    """A veth pair between a bridge and a sandbox as it should be."""

    host_link: str
    bridge: str
    interface: str
    """Name inside the sandbox."""
    mac: str
    mtu: int
    """0: the kernel's default."""
    address: IPv4Interface | None
    address_ipv6: IPv6Interface | None
    isolated: bool
    """The port may talk to the bridge itself but to no other isolated port (``icc`` off)."""
    hairpin: bool
    """Frames may leave by the port they came in (a container that calls its own published port)."""
    service: IPv4Interface | None = None
    service_ipv6: IPv6Interface | None = None
    """A further address, shared with other sandboxes; ``None``: none, or what there is stays."""
    holder: bool = False
    """Of those that share it this one answers for it: it is on the interface, not on ``lo`` where nobody asks."""
    alias: str = ""
    """What the host end is to say of itself, at most 255 bytes; empty: nothing, or what it says stays."""


class DefaultRoute(NamedTuple):
    """Where a sandbox sends what of one family it has no route for."""

    interface: str
    gateway: Address


class SourceRoute(NamedTuple):
    """How a sandbox with several interfaces answers on one of them, in one family."""

    interface: str
    address: Interface
    """The interface's own, with its subnet."""
    sources: tuple[Address, ...]
    """What is sent from one of these leaves by this interface: its own address, and its service's."""
    gateway: Address | None
    """``None``: this network leads nowhere else."""
    others: tuple[Prefix, ...]
    """Subnets of the sandbox's other networks."""
    default: bool
    """Whether what is sent from here to anywhere else goes by the gateway; else the main table says where."""
    udp_ports: tuple[tuple[int, int], ...] = ()
    """Published ports, the first and the last of each range. What a program sends from one of them to anywhere beyond
    the sandbox's networks leaves by this interface, even if the program bound no address."""


class Namespace(NamedTuple):
    """A pinned network namespace."""

    key: str
    inode: int
    """Identity of the namespace, as ``stat`` of its file shows it."""
    loopback_was_up: bool
    """Before we pinned it."""


class ElementChange(NamedTuple):
    """An element of a set of nftables that comes or goes."""

    table: str
    """``bridge sandnet``."""
    name: str
    """The set's."""
    key: str
    """As scripts spell it."""
    packed: bytes
    """As the kernel compares it: the parts of the key one after the other, each filled up to four bytes."""
    added: bool
    value: str = ""
    """What a map makes of it, as scripts spell it."""
    data: bytes = b""
    """The same as the kernel keeps it."""


RT_TABLE_MAIN: Final = 254


RETIRED: Final = 0x736E0001
"""Link group of dead links: one request deletes a whole group ("sn" and a number)."""


DELETING: Final = 0x736E0002
"""Link group of what :meth:`LinuxLinks.delete` is about to delete."""


PORTS: Final = 0x736E0003
"""Link group of the host ends of pairs: they are known by it under any name."""
