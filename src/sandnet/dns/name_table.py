"""Who is called what on which network, and who may know: the table that all answers are made from.

A table is a value: a change makes a new one, which shares with the old one everything that the change does not
touch, and a question sees either all of a change or nothing of it. Names belong to networks, so a thousand sandboxes
on a network of a thousand names cost a thousand names. A change copies the dicts of one network; with 1,000 owners
that takes 20 us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from sandnet.dns.base import Change, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.dns.reply_cache import Replies
from sandnet.model.address import Address

Key = TypeVar("Key")

TTL = 0
"""Seconds that a local answer may be kept, "there is no such name" included.

Once a create, leave or delete has returned no sandbox may see the old state, and what a program in the sandbox
keeps is out of our hands. Asking again costs microseconds on loopback. (Podman's server went from a day to a minute
to 0 for this reason: containers/aardvark-dns, pull request 511.)
"""


class NameRecord(NamedTuple):
    """The record of a name."""

    addresses: tuple[Address, ...]
    """Each once, both families; empty: the name exists and has none."""
    owners: tuple[str, ...]
    """Who bears the name, as in :class:`~sandnet.dns.base.SetNames`; empty for an alias."""
    network_id: str
    """Where it was found; empty: it is an alias of the asker."""
    ttl: int
    """Seconds."""


class _Owned(NamedTuple):
    """What one owner has on one network."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]


class _Zone:
    """The names of one network. Never edited once it is in a table."""

    __slots__ = ("bearers", "holders", "label", "owners")

    def __init__(self, label: str) -> None:
        self.label = label
        """The network's name in lower case."""
        self.owners: dict[str, _Owned] = {}
        self.bearers: dict[str, tuple[str, ...]] = {}
        """Owners by name."""
        self.holders: dict[Address, tuple[str, ...]] = {}
        """Owners by address."""

    def copy(self) -> _Zone:
        twin = _Zone(self.label)
        twin.owners, twin.bearers, twin.holders = self.owners.copy(), self.bearers.copy(), self.holders.copy()
        return twin

    def add(self, owner: str, owned: _Owned) -> None:
        self.owners[owner] = owned
        alone = (owner,)  # one tuple for all: a network of 1,000 names is 100 KiB smaller
        for name in owned.names:
            others = self.bearers.get(name)
            self.bearers[name] = (*others, owner) if others else alone
        for address in owned.addresses:
            others = self.holders.get(address)
            self.holders[address] = (*others, owner) if others else alone

    def remove(self, owner: str) -> None:
        owned = self.owners.pop(owner, None)
        if owned is None:
            return
        for name in owned.names:
            _without(self.bearers, name, owner)
        for address in owned.addresses:
            _without(self.holders, address, owner)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """All addresses of all who bear the name, each once."""
        bearers = self.bearers[name]
        if len(bearers) == 1:
            return self.owners[bearers[0]].addresses
        return tuple(dict.fromkeys(address for owner in bearers for address in self.owners[owner].addresses))

    def reverse(self, address: Address) -> str | None:
        """An endpoint's name goes before those that its container brings, whose owner has a slash."""
        named = [owner for owner in self.holders.get(address, ()) if self.owners[owner].names]
        if not named:
            return None
        owner = min(named, key=lambda owner: ("/" in owner, owner))
        return f"{self.owners[owner].names[0]}.{self.label}"


def _without(index: dict[Key, tuple[str, ...]], key: Key, owner: str) -> None:
    rest = tuple(other for other in index[key] if other != owner)
    if rest:
        index[key] = rest
    else:
        del index[key]


class NameTable:
    """All names and all askers at one moment; immutable, and to be used by one thread.

    Attributes:
        askers: by container id.
        ready: replies made from this table; filled by the resolver. A changed table begins with none, so that none
            can outlive what it was made from.
    """

    __slots__ = ("_clients", "_zones", "askers", "ready")

    def __init__(self, zones: dict[str, _Zone] | None = None, clients: dict[str, SetClient] | None = None) -> None:
        self._zones = zones or {}
        self._clients = clients or {}
        self.askers: Mapping[str, SetClient] = MappingProxyType(self._clients)
        self.ready = Replies()

    def changed(self, *changes: Change) -> NameTable:
        """The table after these changes, made in order. This one stays as it is; without changes it is the result."""
        return self if not changes else _Draft(self._zones.copy(), self._clients.copy()).after(changes)

    def replaced(self, changes: Sequence[Change]) -> NameTable:
        """A table of exactly these."""
        return _Draft({}, {}).after(changes)

    def lookup(self, asker: SetClient, name: str) -> NameRecord | None:
        """What the asker is told of a name, in any case, with or without a trailing dot.

        Its own aliases come first, then its networks in order: the first on which anybody bears the name, and then,
        where the last label is the name of one of them, ``name.network``.
        """
        name = normal(name)
        return self._alias(asker, name) or self._borne(asker, name) or self._qualified(asker, name)

    def _alias(self, asker: SetClient, name: str) -> NameRecord | None:
        alike = [alias.addresses for alias in asker.aliases if normal(alias.name) == name]
        if not alike:
            return None
        return NameRecord(tuple(dict.fromkeys(address for addresses in alike for address in addresses)), (), "", TTL)

    def _borne(self, asker: SetClient, name: str, label: str = "") -> NameRecord | None:
        for network_id, zone in self._seen(asker):
            if name in zone.bearers and label in ("", zone.label):
                return NameRecord(zone.addresses(name), zone.bearers[name], network_id, TTL)
        return None

    def _qualified(self, asker: SetClient, name: str) -> NameRecord | None:
        host, _, label = name.rpartition(".")
        return self._borne(asker, host, label) if host else None

    def _seen(self, asker: SetClient) -> Iterator[tuple[str, _Zone]]:
        for network_id in asker.networks:
            zone = self._zones.get(network_id)
            if zone is not None:
                yield network_id, zone

    def reverse(self, asker: SetClient, address: Address) -> str | None:
        """``name.network`` of who has the address on one of the asker's networks; ``None``: nobody there."""
        for _, zone in self._seen(asker):
            name = zone.reverse(address)
            if name is not None:
                return name
        return None

    def knows_network(self, asker: SetClient, label: str) -> bool:
        """Whether the asker is on a network of that name, in any case.

        A network's name is known from its first owner on, for as long as somebody is on it.
        """
        label = normal(label)
        return any(zone.label == label for _, zone in self._seen(asker))


class _Draft:
    """A table in the making. The dicts are its own, the zones are copied before their first edit."""

    def __init__(self, zones: dict[str, _Zone], askers: dict[str, SetClient]) -> None:
        self._zones = zones
        self._clients = askers
        self._own: set[str] = set()
        self._left: set[str] = set()
        """Networks that lost an owner or an asker."""

    def after(self, changes: Iterable[Change]) -> NameTable:
        for change in changes:
            self._make(change)
        self._sweep()
        return NameTable(self._zones, self._clients)

    def _make(self, change: Change) -> None:
        match change:
            case SetNames():
                self._name(change)
            case RemoveNames():
                self._unname(change)
            case SetClient():
                self._left.update(self._networks(change.container_id))
                self._clients[change.container_id] = change
            case RemoveClient():
                self._left.update(self._networks(change.container_id))
                self._clients.pop(change.container_id, None)

    def _networks(self, container_id: str) -> tuple[str, ...]:
        asker = self._clients.get(container_id)
        return asker.networks if asker else ()

    def _name(self, change: SetNames) -> None:
        zone = self._zone(change.network_id, change.network.lower())
        zone.remove(change.owner)
        names = dict.fromkeys(map(normal, change.names))
        zone.add(change.owner, _Owned(tuple(names), tuple(dict.fromkeys(change.addresses))))

    def _unname(self, change: RemoveNames) -> None:
        zone = self._zones.get(change.network_id)
        if zone is not None and change.owner in zone.owners:
            self._zone(change.network_id, zone.label).remove(change.owner)
            self._left.add(change.network_id)

    def _zone(self, network_id: str, label: str) -> _Zone:
        """The zone of that name, as it may be edited."""
        zone = self._zones.get(network_id) or _Zone(label)
        if network_id not in self._own:
            zone = self._zones[network_id] = zone.copy()
            self._own.add(network_id)
        zone.label = label
        return zone

    def _sweep(self) -> None:
        """Forget networks without owners and askers; with an asker, ``x.network`` must not be asked upstream."""
        for network_id in self._left:
            zone = self._zones.get(network_id)
            if zone is None or zone.owners:
                continue
            if not any(network_id in asker.networks for asker in self._clients.values()):
                del self._zones[network_id]


def normal(name: str) -> str:
    """A name as it is compared: lower case, without a trailing dot."""
    return name.lower().removesuffix(".")
