"""The attachments on other hosts that a network has, as the entries of the kernel for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from sandnet.kernel.vxlan.base import NO_ENTRIES, EntryChanges, PeerEntries
from sandnet.model import Address, Network, Peer
from sandnet.model.link_names import link_local


class PeerTable:
    """The peers of one network by their MACs, and the owner of each address.

    An address has one owner: the peer that was put last with it. So the order in which a service's former and its next
    holder are changed does not matter.

    A peer with the MAC of a container on this host is hidden: it has no entries until it is revealed. Either the
    endpoint has just moved here, or the container is about to lose it to the peer's host.
    """

    def __init__(self, net: Network, peers: Iterable[Peer] = ()) -> None:
        self._has_ipv6 = net.ipv6 is not None
        self._peers: dict[bytes, Peer] = {}
        self._hidden: dict[bytes, Peer] = {}
        self._owners: dict[bytes, bytes] = {}
        """By address: the MAC of its owner."""
        for peer in peers:
            self._put(peer)

    def __contains__(self, mac: str) -> bool:
        return _packed(mac) in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    def holds(self, peers: Iterable[Peer]) -> bool:
        """Return whether these are all peers, the hidden ones included."""
        return {_packed(peer.mac): peer for peer in peers} == self._peers | self._hidden

    def change(self, put: Collection[Peer], drop: Collection[str]) -> tuple[PeerEntries, PeerEntries]:
        """Change some peers; return the entries to remove and those to add, of these peers alone."""
        macs = {_packed(mac) for mac in drop} | {_packed(peer.mac) for peer in put}
        touched = {own for mac in macs if mac in self._peers for own in self._addresses(self._peers[mac])}
        touched |= {own for peer in put for own in self._addresses(peer)}
        before = self._entries(macs, touched)
        for mac in macs:
            self._hidden.pop(mac, None)
            if peer := self._peers.pop(mac, None):
                for own in self._addresses(peer):
                    if self._owners.get(own) == mac:
                        del self._owners[own]
        for peer in put:
            self._put(peer)
        after = self._entries(macs, touched)
        return before.without(after), after.without(before)

    def hide(self, mac: str) -> tuple[PeerEntries, PeerEntries]:
        """Hide a peer; return the entries to remove and those to add, as :meth:`change` does."""
        peer = self._peers.get(_packed(mac))
        entries = self.change((), [mac])
        if peer:
            self._hidden[_packed(mac)] = peer
        return entries

    def hidden(self, macs: Iterable[str]) -> list[Peer]:
        """Return the hidden ones of some peers. They are revealed when they are put again."""
        return [self._hidden[mac] for mac in map(_packed, macs) if mac in self._hidden]

    def entries(self) -> PeerEntries:
        """Return the entries of all peers."""
        return self._entries(self._peers, self._owners)

    def neighbours(self, addresses: Iterable[Address]) -> PeerEntries:
        """Return the entries of those of the addresses that belong to peers."""
        return self._entries((), [address.packed for address in addresses])

    def differs(self, changes: EntryChanges, port: str, bridge: str) -> bool:
        """Return whether reported changes of a VXLAN port and its bridge are not those of this table."""
        added = changes.present.get(port, NO_ENTRIES).joined(_neighbours(changes.present.get(bridge, NO_ENTRIES)))
        gone = changes.deleted.get(port, NO_ENTRIES).joined(_neighbours(changes.deleted.get(bridge, NO_ENTRIES)))
        addresses = [address for address, _ in gone.neighbours]
        needed = self._entries({mac for mac, _ in gone.forwarding} | gone.ports, addresses)
        lost = needed.forwarding & gone.forwarding or needed.ports & gone.ports or needed.neighbours
        macs = {mac for mac, _ in added.forwarding} | added.ports
        own = self._entries(macs, [address for address, _ in added.neighbours])
        return bool(lost) or added.without(own).total > 0

    def _put(self, peer: Peer) -> None:
        mac = _packed(peer.mac)
        self._peers[mac] = peer
        self._owners.update((own, mac) for own in self._addresses(peer))

    def _addresses(self, peer: Peer) -> Iterator[bytes]:
        """Yield the addresses that a peer answers for, its link-local one included."""
        for address in peer.addresses:
            if address.version == 4 or self._has_ipv6:
                yield address.packed
        if self._has_ipv6 and any(address.version == 6 for address in peer.addresses):
            yield link_local(peer.mac).packed

    def _entries(self, macs: Iterable[bytes], addresses: Iterable[bytes]) -> PeerEntries:
        known = [(mac, self._peers[mac]) for mac in macs if mac in self._peers]
        return PeerEntries(
            frozenset((mac, peer.host_address.packed) for mac, peer in known),
            frozenset(mac for mac, _ in known),
            frozenset((own, self._owners[own]) for own in addresses if own in self._owners),
        )


def _neighbours(entries: PeerEntries) -> PeerEntries:
    return PeerEntries(neighbours=entries.neighbours)


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
