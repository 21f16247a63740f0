"""The kernel's part of networks that reach other hosts: a VXLAN link as a port of a bridge, and its entries.

A *peer* is an attachment on another host. The kernel has three kinds of entries for it: a forwarding entry of the VXLAN
link (its MAC, and the host to which frames are sent), one of the bridge (its MAC is behind the VXLAN port), and
neighbour entries of the bridge (its addresses and its MAC), from which the bridge answers ARP and neighbour discovery.
Entries are bytes, as in ``kernel.types``: ten thousand peers have forty thousand of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sandnet.model.address import Address
from sandnet.model.tunnel import TUNNEL_OVERHEAD

VXLAN_PORT: Final = 4789
"""UDP port of VXLAN (RFC 7348, 4.1)."""
_OVERHEAD: Final = {4: 50, 6: 70}
"""Bytes around an inner packet, by the version of the IP outside: IP, UDP, VXLAN and the inner Ethernet header."""
PROBE_VNI: Final = 0xFFFFFE
"""The VXLAN network identifier of probes between hosts; no network gets it."""
PROBE_PROTOCOL: Final = 0x88B5
"""EtherType of what probes carry: one of those for local use (IEEE 802)."""


def overhead(version: int, *, encrypted: bool) -> int:
    """Return by how many bytes packets of a network are smaller than those of the underlay.

    Args:
        version: of the underlay's IP.
        encrypted: whether the network sends by the tunnel, whose addresses are those of IPv6.
    """
    return TUNNEL_OVERHEAD[version] + _OVERHEAD[6] if encrypted else _OVERHEAD[version]


class VxlanPort(NamedTuple):
    """A VXLAN link as a port of a bridge."""

    name: str
    bridge: str
    vni: int
    """VXLAN network identifier, 1 to 16,777,215."""
    local: Address
    """Source address of encapsulated packets."""
    port: int
    """UDP port that receives, and to which packets are sent."""
    mtu: int
    """Of the frames inside."""
    isolated: bool
    """It may talk to no other isolated port of the bridge."""
    underlay: str = ""
    """Link by which encapsulated packets leave; empty: the route decides."""
    closed: bool = True
    """Whether it is up, learns no senders, is flooded with nothing, and the bridge answers for what is behind it."""
    gro_flush_timeout: int = 0
    """Nanoseconds for which the kernel may hold segments of a stream that arrive, to join them. It stays 0 where sysfs
    does not show the link. It is not read back when the port is compared."""


class PeerEntries(NamedTuple):
    """Entries for peers; those of other kinds are not among them."""

    forwarding: frozenset[tuple[bytes, bytes]] = frozenset()
    """Of the VXLAN link: MAC, and the host's address."""
    ports: frozenset[bytes] = frozenset()
    """Of the bridge: MACs behind the VXLAN port."""
    neighbours: frozenset[tuple[bytes, bytes]] = frozenset()
    """Of the bridge: address and MAC."""

    def without(self, others: PeerEntries) -> PeerEntries:
        """Return the entries that the others lack."""
        return PeerEntries(
            self.forwarding - others.forwarding, self.ports - others.ports, self.neighbours - others.neighbours
        )

    def joined(self, others: PeerEntries) -> PeerEntries:
        """Return the entries of both."""
        return PeerEntries(
            self.forwarding | others.forwarding, self.ports | others.ports, self.neighbours | others.neighbours
        )

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(map(len, self))


NO_ENTRIES: Final = PeerEntries()


class EntryChanges(NamedTuple):
    """The entries that any program changed since the last call."""

    present: dict[str, PeerEntries]
    """By link, bridge or VXLAN port: entries that were added or changed, as they are now."""
    deleted: dict[str, PeerEntries]
    """By link: entries that are gone, as they were last; the MAC of a deleted neighbour may be unknown."""
    missed: bool
    """The kernel dropped notifications: anything may have changed."""


class Underlay(NamedTuple):
    """How this host reaches the other hosts."""

    address: Address
    """Its own address, which the other hosts send to."""
    link: str
    mtu: int
    """Of the link."""


class VxlanPorts(Protocol):
    """VXLAN links. Bridges are made by :class:`sandnet.kernel.base.Links`."""

    def ensure(self, port: VxlanPort) -> None:
        """Make the link if it is absent, put it onto its bridge, close it, and set it up.

        A link that differs in what cannot be changed is made again, without its entries.

        Raises:
            Error: ``NOT_FOUND`` there is no such bridge; ``CONFLICT`` a link of that name is no VXLAN link, or another
                one has that VNI and port (code ``vni_taken``); ``UNAVAILABLE`` the kernel has no VXLAN.
        """
        ...

    def find(self, name: str) -> VxlanPort | None:
        """Return the link as it is in the kernel; ``None``: there is no VXLAN link of that name."""
        ...

    def entries(self, name: str, bridge: str) -> PeerEntries:
        """Return the static entries of a VXLAN port and its bridge; none of an absent link."""
        ...

    def change(self, name: str, bridge: str, removed: PeerEntries, added: PeerEntries) -> None:
        """Remove entries, and then add others, or replace those with the same MAC or address.

        Entries to remove may be absent, and so may the links then.

        Raises:
            Error: ``NOT_FOUND`` a link is absent, and there is something to add.
        """
        ...

    def changed(self) -> EntryChanges:
        """Return what changed since the last call, by this program as well; the first call returns that all may have.

        Only changes of static entries are reported. What a bridge learns, and neighbours that the host found, are not.
        """
        ...

    def underlay(self, address: Address | None) -> Underlay:
        """Return the underlay by an address of the host; ``None``: that of the default route, IPv4 before IPv6.

        Raises:
            Error: ``UNAVAILABLE``, code ``no_underlay``: the host does not have the address, or no default route.
        """
        ...

    def path_mtu(self, host: Address) -> int:
        """Return the MTU of the route to another host, as far as the kernel knows it; 0: there is no route."""
        ...

    def close(self) -> None:
        """Release resources; a later call takes new ones."""
        ...
