"""The VXLAN links of the in-memory kernel, and their entries."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from sandnet.errors import VNI_TAKEN, Error, Kind, not_found
from sandnet.kernel.fake.common import FaultInjector, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.vxlan.base import NO_ENTRIES, EntryChanges, PeerEntries, Underlay, VxlanPort
from sandnet.model.address import Address

_KIND: Final = "vxlan"
_UNDERLAY: Final = Underlay(IPv4Address("192.0.2.1"), "eth0", 1500)


class FakeVxlanPorts:
    """See :class:`sandnet.kernel.vxlan.base.VxlanPorts`."""

    area = "vxlan"

    def __init__(self, faults: FaultInjector, links: FakeLinks) -> None:
        self.faults = faults
        self.found: Underlay | None = _UNDERLAY
        """The underlay of the default route; ``None``: there is none."""
        self._links = links
        self._ports: dict[str, VxlanPort] = {}
        self._forwarding: dict[str, PeerEntries] = {}
        """By VXLAN link: its forwarding entries, and those of its bridge."""
        self._neighbours: dict[str, PeerEntries] = {}
        """By bridge."""
        self._changes: EntryChanges | None = None

    @recorded
    def ensure(self, port: VxlanPort) -> None:
        """Make the link, and close it."""
        bridge = self._links.present.get(port.bridge)
        if bridge is None:
            raise not_found("bridge", port.bridge)
        found = self._links.present.get(port.name)
        if found and found.kind != _KIND:
            raise Error(Kind.CONFLICT, f"link {port.name} is there and is no VXLAN link")
        known = self._present(port.name)
        if known and (known.vni, known.local, known.port) != (port.vni, port.local, port.port):
            self._links.drop(port.name)
            known = None
        if known is None:
            others = (each for name in [*self._ports] if (each := self._present(name)))
            if any((other.vni, other.port) == (port.vni, port.port) for other in others):
                raise Error(Kind.CONFLICT, f"another VXLAN link has the VNI {port.vni}", code=VNI_TAKEN)
            self._links.add(port.name, _KIND)
            self._forwarding[port.name] = NO_ENTRIES
        mtu = port.mtu or 1500
        self._links.present[port.name] = self._links.present[port.name]._replace(
            master=bridge.ifindex, mtu=mtu, up=True
        )
        self._ports[port.name] = port._replace(mtu=mtu, closed=True)

    @recorded
    def find(self, name: str) -> VxlanPort | None:
        """Return the link."""
        return self._present(name)

    @recorded
    def entries(self, name: str, bridge: str) -> PeerEntries:
        """Return the entries of both."""
        if not self._present(name) or bridge not in self._links.present:
            return NO_ENTRIES
        return self._forwarding[name].joined(self._neighbours.get(bridge, NO_ENTRIES))

    @recorded
    def change(self, name: str, bridge: str, removed: PeerEntries, added: PeerEntries) -> None:
        """Remove entries, and add others."""
        if added.total and not (self._present(name) and bridge in self._links.present):
            raise not_found("link", name)
        for link, own in ((name, self._forwarding), (bridge, self._neighbours)):
            if link in self._links.present:
                own[link] = _changed(
                    own.get(link, NO_ENTRIES), *(_part(each, own is self._neighbours) for each in (removed, added))
                )
        self._report(name, bridge, removed, added)

    @recorded
    def changed(self) -> EntryChanges:
        """Return what changed since the last call."""
        found, self._changes = self._changes, EntryChanges({}, {}, missed=False)
        return found or EntryChanges({}, {}, missed=True)

    @recorded
    def underlay(self, address: Address | None) -> Underlay:
        """Return the underlay that a test set, or one of the address, if a link has it."""
        if address is None:
            if self.found is None:
                raise Error(Kind.UNAVAILABLE, "this host has no default route", code="no_underlay")
            return self.found
        for link, held in self._links.held.items():
            if any(own.ip == address for own in held):
                return Underlay(address, link, self._links.present[link].mtu)
        raise Error(Kind.UNAVAILABLE, f"no link of this host has the underlay address {address}", code="no_underlay")

    @recorded
    def path_mtu(self, host: Address) -> int:
        """Return the MTU of the underlay."""
        return self.found.mtu if self.found else 0

    @recorded
    def close(self) -> None:
        """Forget the notifications."""
        self._changes = None

    def _present(self, name: str) -> VxlanPort | None:
        """Return a link, as far as no other program deleted it or set it down."""
        link, port = self._links.present.get(name), self._ports.get(name)
        if link is None or port is None or link.kind != _KIND:
            return None
        bridge = next((other.name for other in self._links.present.values() if other.ifindex == link.master), "")
        return port._replace(bridge=bridge, closed=port.closed and link.up)

    def _report(self, name: str, bridge: str, removed: PeerEntries, added: PeerEntries) -> None:
        if self._changes is None:
            return
        for into, entries in ((self._changes.deleted, removed), (self._changes.present, added)):
            for link, neighbours in ((name, False), (bridge, True)):
                into[link] = into.get(link, NO_ENTRIES).joined(_part(entries, neighbours))


def _part(entries: PeerEntries, neighbours: bool) -> PeerEntries:
    return PeerEntries(neighbours=entries.neighbours) if neighbours else entries._replace(neighbours=frozenset())


def _changed(entries: PeerEntries, removed: PeerEntries, added: PeerEntries) -> PeerEntries:
    left = entries.without(removed)
    macs, addresses = ({key for key, _ in each} for each in (added.forwarding, added.neighbours))
    forwarding = frozenset(pair for pair in left.forwarding if pair[0] not in macs)
    neighbours = frozenset(pair for pair in left.neighbours if pair[0] not in addresses)
    return PeerEntries(forwarding, left.ports, neighbours).joined(added)
