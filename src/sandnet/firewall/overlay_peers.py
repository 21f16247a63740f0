"""The elements for attachments on other hosts that the kernel has, and their changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from sandnet.firewall import overlay_rules
from sandnet.firewall.ruleset.elements import BRIDGE, INET, Element, by_set, difference
from sandnet.firewall.ruleset.planned_change import NO_CHANGE, PlannedChange
from sandnet.kernel.base import Firewall
from sandnet.kernel.types import ElementSet, Listing, Value
from sandnet.model import Address, Network, Peer

_Elements = dict[Element, Value]


class OverlayPeers:
    """Peers by network, kept in memory so that a change touches only what differs.

    After a start, what an earlier run wrote stays until the peers of its network are set: the records of other hosts
    may come late, and established flows continue until then. Callers serialize their calls for one network.
    """

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._peers: dict[str, tuple[Network, dict[str, Peer]]] = {}
        """By network and MAC."""
        self._adopted: dict[str, _Elements] = {}
        """By network: elements that an earlier run wrote."""
        self._host: _Elements = {}

    def adopt(self, nets: Iterable[Network], listings: Mapping[str, Listing | None]) -> None:
        """Take over what the tables of an earlier run have for these networks, before they are made again."""
        found = [
            (Element(ElementSet(table, name), key), value)
            for table in (INET, BRIDGE)
            if (listing := listings.get(table))
            for name, keys in listing.elements.items()
            if name in overlay_rules.OF_PEERS or name in overlay_rules.OF_HOST
            for key, value in keys.items()
        ]
        self._host = {element: value for element, value in found if overlay_rules.is_of_host(element)}
        for net in nets:
            own = {element: value for element, value in found if overlay_rules.is_of_peer(net, element)}
            if net.vni and own:
                self._adopted[net.id] = own

    def elements(self) -> Iterator[tuple[Element, Value]]:
        """Yield the elements that the kernel has."""
        yield from self._host.items()
        for own in self._adopted.values():
            yield from own.items()
        for net, peers in self._peers.values():
            for peer in peers.values():
                yield from overlay_rules.peer_elements(net, peer)

    def host_changes(self, underlay: Address, port: int) -> PlannedChange:
        """Plan the elements of the host itself, instead of those for another address or port."""
        old, new = self._host, dict(overlay_rules.host_elements(underlay, port))
        if old == new:
            return NO_CHANGE
        self._host = new

        def undo() -> None:
            self._host = old

        return self._planned(old.items(), new.items(), undo)

    def peer_changes(self, net: Network, put: Sequence[Peer], drop: Collection[str]) -> PlannedChange:
        """Plan the change of some peers, by their MACs."""
        _, peers = self._peers.setdefault(net.id, (net, {}))
        macs = {*drop, *(peer.mac for peer in put)}
        before = [peer for mac in macs if (peer := peers.pop(mac, None))]
        peers.update((peer.mac, peer) for peer in put)

        def undo() -> None:
            for mac in macs:
                peers.pop(mac, None)
            peers.update((peer.mac, peer) for peer in before)

        return self._planned(_elements(net, before), _elements(net, put), undo)

    def all_changes(self, net: Network, peers: Sequence[Peer]) -> PlannedChange:
        """Plan the change to exactly these peers; what an earlier run wrote for others is removed."""
        before, adopted = self._peers.get(net.id), self._adopted.pop(net.id, {})
        self._peers[net.id] = net, {peer.mac: peer for peer in peers}

        def undo() -> None:
            self._peers.pop(net.id, None)
            if before:
                self._peers[net.id] = before
            if adopted:
                self._adopted[net.id] = adopted

        old = dict(_elements(net, before[1].values() if before else ()))
        return self._planned((adopted | old).items(), _elements(net, peers), undo)

    def removals(self, net: Network) -> PlannedChange:
        """Plan the removal of all peers of a network."""
        if net.id not in self._peers and net.id not in self._adopted:
            return NO_CHANGE
        change = self.all_changes(net, ())
        self._peers.pop(net.id, None)
        return change

    def _planned(
        self, old: Iterable[tuple[Element, Value]], new: Iterable[tuple[Element, Value]], undo: Callable[[], None]
    ) -> PlannedChange:
        changed = difference(by_set(old), by_set(new))
        return PlannedChange(self._firewall, changed, undo) if changed.removed or changed.added else NO_CHANGE


def _elements(net: Network, peers: Iterable[Peer]) -> Iterator[tuple[Element, Value]]:
    for peer in peers:
        yield from overlay_rules.peer_elements(net, peer)
