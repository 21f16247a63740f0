"""Give the sandboxes of a network neighbour entries for each other while the kernel's table of neighbours is full.

One sandbox can keep the table full, which all namespaces share. Then two others do not find each other, unless they
have entries that do not count in the table. Their number grows with the square of the sandboxes of a network, so they
are made only as long as they are needed, and not for large networks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from sandnet.core.reconcile.desired_state import DesiredState
from sandnet.errors import Error
from sandnet.kernel.base import Links
from sandnet.kernel.types import Veth
from sandnet.kernel.workers import Workers
from sandnet.model import Origin, Sandbox
from sandnet.model.address import Address

MOST_PEERS: Final = 64
"""Interfaces of a network above which they get no entries: they would be 8,064 for these, in both families."""


class _Place(NamedTuple):
    """An interface in a sandbox."""

    key: str
    """Where the sandbox's namespace is pinned."""
    interface: str


class _Peers(NamedTuple):
    """The interfaces of one network that know each other."""

    places: Mapping[_Place, Collection[Address]]
    """The addresses of each interface itself. Those of a virtual machine, or in an engine's namespace, are left out."""
    macs: Mapping[Address, str]


_NONE: Final = _Peers({}, {})


class PeerNeighbours:
    """The entries that sandboxes were given.

    After a restart of the daemon, those of before stay until the sandbox ends. They are as any entry otherwise: the
    kernel confirms them, and accepts another MAC.

    Args:
        desired: the sandboxes.
        links: changes the entries.
        workers: run the changes.
    """

    def __init__(self, desired: DesiredState, links: Links, workers: Workers) -> None:
        self._desired = desired
        self._links = links
        self._workers = workers
        self._given: dict[str, _Peers] = {}
        """By network."""

    async def update(self, versions: Collection[int]) -> None:
        """Give the entries that are missing, and remove those that are no longer needed.

        Args:
            versions: the IP versions whose table is full; without any, all entries are removed.
        """
        wanted = self._wanted(versions) if versions else {}
        for network_id in wanted.keys() | self._given.keys():
            old, new = self._given.get(network_id, _NONE), wanted.get(network_id, _NONE)
            if old == new:
                continue
            await self._workers.run(self._change, old, new)
            self._given[network_id] = new
            if not new.places:
                del self._given[network_id]

    def _wanted(self, versions: Collection[int]) -> dict[str, _Peers]:
        members: dict[str, list[tuple[Sandbox, Veth]]] = {}
        for sandbox in self._desired.sandboxes():
            for attachment, veth in self._desired.links_of(sandbox):
                members.setdefault(attachment.network_id, []).append((sandbox, veth))
        return {network: _peers(each, versions) for network, each in members.items() if 1 < len(each) <= MOST_PEERS}

    def _change(self, old: _Peers, new: _Peers) -> None:
        """Change the entries of one network. A sandbox that ends in the meantime, or that is too large, is left out."""
        removed = old.macs.keys() - new.macs.keys()
        for place in old.places.keys() | new.places.keys():
            before = old.macs if place in old.places else {}
            own = new.places.get(place)
            wanted = {} if own is None else {each: mac for each, mac in new.macs.items() if each not in own}
            added = {each: mac for each, mac in wanted.items() if before.get(each) != mac}
            gone = removed if own is not None else old.macs.keys() - set(old.places[place])
            if added or gone:
                with suppress(Error):
                    self._links.change_neighbours(place.key, place.interface, added, gone)


def _peers(members: Collection[tuple[Sandbox, Veth]], versions: Collection[int]) -> _Peers:
    places: dict[_Place, Collection[Address]] = {}
    macs: dict[Address, str] = {}
    for sandbox, veth in members:
        own = [*_addresses(veth, versions)]
        shared = [each.ip for each in (veth.service, veth.service_ipv6) if each]
        macs.update((address, veth.mac) for address in own if veth.holder or address not in shared)
        if sandbox.key and sandbox.origin is not Origin.EXTERNAL and not veth.tap:
            places[_Place(sandbox.key, veth.interface)] = own
    return _Peers(places, macs)


def _addresses(veth: Veth, versions: Collection[int]) -> Iterator[Address]:
    """Yield the addresses of an interface, that of its service included."""
    for each in (veth.address, veth.address_ipv6, veth.service, veth.service_ipv6):
        if each and each.version in versions:
            yield each.ip
    yield from (each for each in veth.additional_addresses if each.version in versions)
