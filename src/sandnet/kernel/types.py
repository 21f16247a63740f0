"""What is in the kernel, as bulk reads report it: the facts that records are compared with.

Nothing here decides or changes anything. Addresses are bytes, as the kernel reports them: a thousand sandboxes have
some thousand of them, and an address object costs more than the comparison it is made for.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final, NamedTuple

from sandnet.model.address import Address, Interface, Prefix, all_addresses
from sandnet.model.tap import TapOptions

PackedPrefix = tuple[bytes, int]
"""An address or a prefix in network order, and its length."""


def packed_interface(interface: Interface) -> PackedPrefix:
    """Return an address in the kernel's form."""
    return interface.ip.packed, interface.network.prefixlen


def host_prefix(address: Address) -> PackedPrefix:
    """Return the prefix that holds this address only."""
    return address.packed, address.max_prefixlen


def packed_addresses_on(state: NamespaceState, index: int) -> frozenset[PackedPrefix]:
    """Return the addresses on a link."""
    return state.addresses.get(index, frozenset())


def packed_prefix(prefix: Prefix) -> PackedPrefix:
    """Return the destination of a connected route."""
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
    """The alias, which names the link's owner (``sandnet.model.link_alias``)."""
    snooping: bool = False
    """Whether it is a bridge with multicast snooping: it learns from its ports who listens to which multicast group."""
    shaped: bool = False
    """Whether what it sends is limited (its queueing discipline is ``tbf``)."""


class Port(NamedTuple):
    """A link of the host, the bridge it is a port of, and the place of its other end."""

    link: Link
    peer: int
    """Index of the other end of a veth pair, in its own namespace; 0: none."""
    peer_namespace: int
    """The host's number for the namespace of the other end (``ip netns list-id``); -1: its own, or none."""
    isolated: bool
    hairpin: bool
    """The two options of a bridge port; false for a link that is none."""


class Rate(NamedTuple):
    """A limit of traffic in one direction, counted in bytes of layer 2."""

    rate: int
    """Bytes per second."""
    burst: int
    """Bytes that may pass at once after a pause: one frame at least."""


class PortLimits(NamedTuple):
    """The limits of a port: the host end of a pair, or a tap."""

    ingress: Rate | None = None
    """Of what is sent to the sandbox."""
    egress: Rate | None = None
    """Of what the sandbox sends."""


NO_LIMITS: Final = PortLimits()


class DefaultRouteState(NamedTuple):
    """One next hop of a default route of the main table."""

    version: int
    """4 or 6."""
    gateway: bytes
    """Empty: everything is on the link."""
    ifindex: int
    ours: bool
    """It bears our protocol number (``rtm_protocol``)."""


class PolicyRule(NamedTuple):
    """A rule of ours that chooses a routing table (ip-rule(8))."""

    version: int
    """4 or 6."""
    priority: int
    """The lowest is evaluated first."""
    source: bytes
    """The one source address that it matches, in network order; empty: any."""
    ports: tuple[int, int]
    """The UDP source ports that it matches, the first and the last; two zeros: any, of any protocol."""
    table: int
    specific: bool
    """It ignores the default route of the table (``suppress_prefixlength 0``)."""


class PolicyRoute(NamedTuple):
    """A route of a table of ours."""

    version: int
    table: int
    destination: PackedPrefix
    gateway: bytes
    """Empty: the destination is on the link."""
    ifindex: int
    source: bytes
    """The address that packets without a source address get."""


class Policy(NamedTuple):
    """How a namespace routes by source: all rules and routes that bear our protocol number."""

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
    """Only of a sandbox."""
    via: Mapping[int, frozenset[tuple[PackedPrefix, bytes]]] = {}
    """Routes with a gateway in the main table, but default routes, by index of the link."""
    parameters: Mapping[str, str] = {}
    """Those kernel parameters that were asked for, by their paths."""
    tap_problems: Mapping[str, str] = {}
    """What is wrong with taps inside that were asked for, by their names."""
    limits: Mapping[str, PortLimits] = {}
    """Only of the host: by port, those that have any."""


class PinnedNamespace(NamedTuple):
    """A sandbox's namespace."""

    inode: int
    """Its identity: the inode number of its file."""
    state: NamespaceState
    complete: bool = True
    """Whether all of it was read. If not, ``state`` is empty: it holds more than one scan may read."""


class ElementSet(NamedTuple):
    """An nftables set or map."""

    table: str
    """``bridge sandnet``."""
    name: str
    ranges: bool = False
    """Its keys are ranges (``flags interval``): a key is the first one, followed by the last one."""


Value = bytes | str
"""The value of a map's element as the kernel stores it, or a verdict (``jump CHAIN``, ``accept``); empty in a set."""
Elements = Mapping[ElementSet, Mapping[bytes, Value]]
"""Elements with their values, by set. Keys are as the kernel compares them (``kernel.nft_types``)."""
NO_ELEMENTS: Final[Elements] = {}


class TableStructure(NamedTuple):
    """An nftables table without the elements of its sets."""

    frame: str = ""
    """Sets, chains and rules as text, for comparison only."""
    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    """Names of sets; without anonymous ones, which belong to a rule."""
    maps: frozenset[str] = frozenset()


class Listing(NamedTuple):
    """An nftables table."""

    structure: TableStructure
    elements: Mapping[str, Mapping[bytes, Value]]
    """By set or map: the values by key. Sets that rules write to are left out."""


class Changes(NamedTuple):
    """The changes since the last notifications, by other programs and by ourselves."""

    links: Mapping[str, Port]
    """Links of the host that changed, as they are now."""
    deleted: frozenset[str]
    """Links of the host that were deleted."""
    reduced: frozenset[str]
    """Links of the host that lost an address or a route, whose limits of traffic changed, or, except ports, whose
    forwarding was switched on or off."""
    extended: frozenset[str]
    """Links of the host that got an address or a route; empty for a route without a link."""
    in_namespaces: Mapping[int, Sequence[Port]]
    """By the host's number for their namespace: links inside that changed, as they are now."""
    reduced_namespaces: frozenset[int]
    """Namespaces, by the same number, in which a link, an address, a route or a rule was deleted."""
    mounts: bool
    """The mount table changed."""
    rules: bool
    """Another program changed nftables."""
    missed: bool
    """The kernel dropped notifications for lack of buffer space: anything may have changed."""


class Bridge(NamedTuple):
    """The desired state of a bridge device."""

    name: str
    mtu: int
    """0: the kernel's default."""
    addresses: tuple[Interface, ...]
    alias: str = ""
    """The alias to set, at most 255 bytes; empty: none, or the present one stays."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Kernel parameters, as paths below ``/proc/sys``, and their values. They are set before the bridge is up: IPv6 may
    be off for new links, which then take no IPv6 address."""
    new: bool = False
    """Whether the network is new and no sandbox can send from a foreign address. Then a bridge that is made now has no
    neighbours with old entries (``NeighbourHistory``)."""


class BridgeRoute(NamedTuple):
    """The route from the host to the sandboxes of a bridge."""

    prefix: Prefix
    link: str
    source: Address | None
    """The host's own address there."""


class RouteSource(NamedTuple):
    """A range of destinations, the link that leads there, and the source address that their route prefers."""

    link: str
    first: Address
    last: Address
    """The last destination, included."""
    source: Address


class InnerTap(NamedTuple):
    """The desired state of a tap in a sandbox, joined to the sandbox's interface."""

    name: str
    options: TapOptions


class Veth(NamedTuple):
    """The desired state of a veth pair between a bridge and a sandbox."""

    host_link: str
    master: str
    """Name of the link that the host end is a port of: a bridge."""
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
    """Frames may leave by the port they arrived on (a container that calls its own published port)."""
    additional_addresses: tuple[Address, ...] = ()
    """Further addresses of this sandbox alone. None of them is the source of connections that name none."""
    service: IPv4Interface | None = None
    service_ipv6: IPv6Interface | None = None
    """A further address, shared with other sandboxes; ``None``: none, or the present one stays."""
    holder: bool = False
    """Whether this sandbox answers for the shared address. The holder has it on the interface, the other sandboxes on
    ``lo``, where no neighbour request arrives."""
    alias: str = ""
    """The alias to set on the host end, at most 255 bytes; empty: none, or the present one stays."""
    bridge_addresses: tuple[Address, ...] = ()
    """The bridge's own addresses: the sandbox keeps a neighbour entry for each, however full the kernel's table is."""
    link_mac: str = ""
    """The bridge's MAC; empty: it may change, and the kernel finds it out."""
    tap: TapOptions | None = None
    """The link is a tap of these options, named ``host_link``, instead of a pair. ``mac`` and the addresses are the
    guest's, which sets them itself."""
    limits: PortLimits = NO_LIMITS
    routes: tuple[tuple[Prefix, Address | None], ...] = ()
    """Destinations through the interface, each with its next hop; ``None``: on the link."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Kernel parameters of the interface, as paths below ``/proc/sys``, and their values."""
    inner_tap: InnerTap | None = None
    """A tap in the sandbox that is joined to the interface, which then has no address: a guest has it."""

    @property
    def own_addresses(self) -> tuple[Address, ...]:
        """The addresses that no other sandbox has, the primary ones first."""
        ipv4, ipv6 = self.address and self.address.ip, self.address_ipv6 and self.address_ipv6.ip
        return all_addresses(ipv4, ipv6, self.additional_addresses)


class DefaultRoute(NamedTuple):
    """The next hop for packets of one family to which no other route of the sandbox applies."""

    interface: str
    gateway: Address


class SourceRoute(NamedTuple):
    """How a sandbox with several interfaces answers on one of them, in one family."""

    interface: str
    address: Interface
    """The interface's own address, with its subnet."""
    sources: tuple[Address, ...]
    """Source addresses whose packets leave by this interface: its own address, and its service's."""
    gateway: Address | None
    """``None``: this network leads to no other network."""
    others: tuple[Prefix, ...]
    """Subnets of the sandbox's other networks."""
    default: bool
    """Whether packets from these sources to anywhere else go to the gateway; else the main table decides."""
    udp_ports: tuple[tuple[int, int], ...] = ()
    """Published ports, the first and the last of each range. Packets from one of them to anywhere beyond the sandbox's
    networks leave by this interface, even if the program bound no address."""


class Namespace(NamedTuple):
    """A pinned network namespace."""

    key: str
    inode: int
    """Its identity: the inode number of its file."""
    loopback_was_up: bool
    """Whether ``lo`` was up before we pinned it."""


class InspectedNamespace(NamedTuple):
    """A network namespace that another program made, as it is before it is pinned."""

    inode: int
    """Its identity."""
    is_own: bool
    """Whether it is the daemon's, which is the host's; then nothing inside is looked at."""
    loopback_up: bool
    interfaces: tuple[str, ...]
    """The names of the links inside, ``lo`` included."""


class MovedLink(NamedTuple):
    """A link that another program made on the host, as it is to be in a namespace."""

    source: str
    """Its name on the host."""
    interface: str
    """Its name inside."""
    mac: str
    """Empty: it keeps its own."""
    addresses: tuple[Interface, ...]
    routes: tuple[tuple[Prefix, Address | None], ...]
    """Destinations through it, each with its next hop; ``None``: on the link."""
    alias: str
    """Identifies it, wherever it is."""
    additional_addresses: tuple[Address, ...] = ()
    """See :attr:`Veth.additional_addresses`."""


class Macvlan(NamedTuple):
    """An interface of its own on the Ethernet segment of another link."""

    name: str
    parent: str
    mode: str
    """``bridge``, ``private`` or ``vepa``."""
    mac: str
    mtu: int
    """0: the parent's."""


class PreparedSandbox(NamedTuple):
    """A network namespace that was made before a container asked for one, and that no container has used.

    It is not pinned. The kernel deletes it with its links when the last of these descriptors is closed, also when the
    process that holds them is killed. Inside, ``lo`` is up and has no other address than its own; ``interface`` is down
    and has no address, and makes no IPv6 address of its own accord. The host end is down, on no bridge, without an
    alias, in the link group :data:`PREPARED`.
    """

    namespace: int
    """Descriptor of the namespace; -1 in the in-memory kernel."""
    inode: int
    """Its identity: the inode number of its file."""
    host_link: str
    """Name of the end of the pair on the host, as a join would choose it."""
    host_index: int
    interface: str
    """Name of the end inside."""
    inner_index: int
    sockets: tuple[socket.socket, socket.socket] | None
    """The resolver's UDP and listening TCP socket inside; ``None``: the pool opens none."""


class PoolStatus(NamedTuple):
    """The pool of prepared sandboxes, and the counts since the daemon started."""

    ready: int
    """Prepared sandboxes that wait to be handed out."""
    target: int
    """How many the pool is to hold at present; 0: it is off."""
    limit: int
    """How many it may hold at most."""
    handed_out: int
    misses: int
    """Requests that found the pool empty or off."""
    prepared_inline: int
    """Sandboxes that a join prepared itself."""
    discarded: int
    """Sandboxes that the pool closed: too many without demand, or changed by another program."""
    failures: int
    """Attempts to fill the pool that failed."""
    restarts: int
    """How often the process that fills it was started again."""
    problem: str
    """Why the pool is not filled at present; empty: nothing prevents it."""


RT_TABLE_MAIN: Final = 254


RETIRED: Final = 0x736E0001
"""Link group of retired links: one request deletes a whole group ("sn" and a number)."""


DELETING: Final = 0x736E0002
"""Link group of the links that :meth:`LinuxLinks.delete` is about to delete."""


PORTS: Final = 0x736E0003
"""Link group of the host ends of pairs, and of taps: it identifies them under any name."""


PREPARED: Final = 0x736E0004
"""Link group of the host ends of prepared sandboxes, which no container uses yet."""
