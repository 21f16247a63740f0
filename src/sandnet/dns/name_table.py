"""The name table: the names of all networks and the clients that see them; all local answers derive from it.

A table is immutable. A change creates a new table that shares all unchanged parts with the old one. So a question sees
either all of a change or nothing of it. Names belong to networks, so a thousand sandboxes on a network of a thousand
names cost the memory of a thousand names. A change copies the dicts of one network; with 1,000 owners that takes 20 us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from sandnet.dns.base import Change, RemoveClient, RemoveNames, SetClient, SetNames
from sandnet.dns.reply_cache import ReplyCache
from sandnet.model.address import Address

Key = TypeVar("Key")

TTL = 0
"""Seconds that a local answer may be cached, a negative one included.

When a create, leave or delete has returned, no sandbox may see the old state, and the resolver cannot invalidate the
cache of a program in the sandbox. Another question over loopback costs microseconds. (Podman's server changed its TTL
from a day to a minute to 0 for this reason: containers/aardvark-dns, pull request 511.)
"""


class NameRecord(NamedTuple):
    """The record of a name."""

    addresses: tuple[Address, ...]
    """Addresses of both families without duplicates; empty: the name exists and has no address."""
    owners: tuple[str, ...]
    """Owners of the name, as in :class:`~sandnet.dns.base.SetNames`; empty for an alias."""
    network_id: str
    """Network of the record; empty: it is an alias of the client."""
    ttl: int
    """Seconds."""


class _Owned(NamedTuple):
    """The names and addresses of one owner on one network."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]
    reversible: tuple[Address, ...]
    """The addresses, and the additional ones."""


class _Zone:
    """The names of one network. A zone in a table is never modified."""

    __slots__ = ("label", "owners", "owners_by_address", "owners_by_name")

    def __init__(self, label: str) -> None:
        self.label = label
        """The network's name in lower case."""
        self.owners: dict[str, _Owned] = {}
        self.owners_by_name: dict[str, tuple[str, ...]] = {}
        """Owners by name."""
        self.owners_by_address: dict[Address, tuple[str, ...]] = {}
        """Owners by address."""

    def copy(self) -> _Zone:
        copied = _Zone(self.label)
        copied.owners = self.owners.copy()
        copied.owners_by_name, copied.owners_by_address = self.owners_by_name.copy(), self.owners_by_address.copy()
        return copied

    def add(self, owner: str, owned: _Owned) -> None:
        self.owners[owner] = owned
        single = (owner,)  # one tuple for all names: saves 100 KiB on a network of 1,000 names
        for name in owned.names:
            others = self.owners_by_name.get(name)
            self.owners_by_name[name] = (*others, owner) if others else single
        for address in owned.reversible:
            others = self.owners_by_address.get(address)
            self.owners_by_address[address] = (*others, owner) if others else single

    def remove(self, owner: str) -> None:
        owned = self.owners.pop(owner, None)
        if owned is None:
            return
        for name in owned.names:
            _without(self.owners_by_name, name, owner)
        for address in owned.reversible:
            _without(self.owners_by_address, address, owner)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Return the addresses of all owners of the name, without duplicates."""
        owners = self.owners_by_name[name]
        if len(owners) == 1:
            return self.owners[owners[0]].addresses
        return tuple(dict.fromkeys(address for owner in owners for address in self.owners[owner].addresses))

    def reverse(self, address: Address) -> str | None:
        """Return the qualified name of an address; ``None``: it has none.

        An endpoint's name takes precedence over names that its container adds, whose owner contains a slash.
        """
        named = [owner for owner in self.owners_by_address.get(address, ()) if self.owners[owner].names]
        if not named:
            return None
        owner = min(named, key=lambda owner: ("/" in owner, owner))
        return f"{self.owners[owner].names[0]}.{self.label}"


def _without(index: dict[Key, tuple[str, ...]], key: Key, owner: str) -> None:
    remaining = tuple(other for other in index[key] if other != owner)
    if remaining:
        index[key] = remaining
    else:
        del index[key]


class NameTable:
    """All names and clients at one moment; immutable, for use by one thread.

    Attributes:
        clients: the clients, by container id.
        replies: cache of replies built from this table; filled by the resolver. The cache of a changed table is empty,
            so no reply is older than its table.
    """

    __slots__ = ("_clients", "_zones", "clients", "replies")

    def __init__(self, zones: dict[str, _Zone] | None = None, clients: dict[str, SetClient] | None = None) -> None:
        self._zones = zones or {}
        self._clients = clients or {}
        self.clients: Mapping[str, SetClient] = MappingProxyType(self._clients)
        self.replies = ReplyCache()

    def changed(self, *changes: Change) -> NameTable:
        """Return the table after these changes, applied in order. Without changes, return this table itself."""
        return self if not changes else _Builder(self._zones.copy(), self._clients.copy()).build(changes)

    def replaced(self, changes: Sequence[Change]) -> NameTable:
        """Return a table of exactly these names and clients."""
        return _Builder({}, {}).build(changes)

    def lookup(self, client: SetClient, name: str) -> NameRecord | None:
        """Return the record of a name that the client sees. The name may be in any case and have a trailing dot.

        Order: the client's own aliases; the first of its networks that has the name; then ``name.network``, where the
        last label is the name of one of its networks.
        """
        name = canonical(name)
        return self._alias(client, name) or self._on_networks(client, name) or self._qualified(client, name)

    def _alias(self, client: SetClient, name: str) -> NameRecord | None:
        matching = [alias.addresses for alias in client.aliases if canonical(alias.name) == name]
        if not matching:
            return None
        return NameRecord(tuple(dict.fromkeys(address for addresses in matching for address in addresses)), (), "", TTL)

    def _on_networks(self, client: SetClient, name: str, label: str = "") -> NameRecord | None:
        for network_id, zone in self._visible_zones(client):
            if name in zone.owners_by_name and label in ("", zone.label):
                return NameRecord(zone.addresses(name), zone.owners_by_name[name], network_id, TTL)
        return None

    def _qualified(self, client: SetClient, name: str) -> NameRecord | None:
        host, _, label = name.rpartition(".")
        return self._on_networks(client, host, label) if host else None

    def _visible_zones(self, client: SetClient) -> Iterator[tuple[str, _Zone]]:
        for network_id in client.networks:
            zone = self._zones.get(network_id)
            if zone is not None:
                yield network_id, zone

    def reverse(self, client: SetClient, address: Address) -> str | None:
        """Return ``name.network`` of the owner of the address on one of the client's networks; ``None``: no owner."""
        for _, zone in self._visible_zones(client):
            name = zone.reverse(address)
            if name is not None:
                return name
        return None

    def knows_network(self, client: SetClient, label: str) -> bool:
        """Return whether the client is on a network of that name, in any case.

        A network's name is known from its first owner on, as long as it has an owner or a client.
        """
        label = canonical(label)
        return any(zone.label == label for _, zone in self._visible_zones(client))


class _Builder:
    """A builder of a table. It owns the dicts; zones are copied before their first modification."""

    def __init__(self, zones: dict[str, _Zone], clients: dict[str, SetClient]) -> None:
        self._zones = zones
        self._clients = clients
        self._copied: set[str] = set()
        self._reduced: set[str] = set()
        """Networks that lost an owner or a client."""

    def build(self, changes: Iterable[Change]) -> NameTable:
        for change in changes:
            self._apply(change)
        self._remove_unused()
        return NameTable(self._zones, self._clients)

    def _apply(self, change: Change) -> None:
        match change:
            case SetNames():
                self._set_names(change)
            case RemoveNames():
                self._remove_names(change)
            case SetClient():
                self._reduced.update(self._networks(change.container_id))
                self._clients[change.container_id] = change
            case RemoveClient():
                self._reduced.update(self._networks(change.container_id))
                self._clients.pop(change.container_id, None)

    def _networks(self, container_id: str) -> tuple[str, ...]:
        client = self._clients.get(container_id)
        return client.networks if client else ()

    def _set_names(self, change: SetNames) -> None:
        zone = self._editable_zone(change.network_id, change.network.lower())
        zone.remove(change.owner)
        names = tuple(dict.fromkeys(map(canonical, change.names)))
        addresses = tuple(dict.fromkeys(change.addresses))
        further = change.additional_addresses
        zone.add(change.owner, _Owned(names, addresses, tuple(dict.fromkeys((*addresses, *further)))))

    def _remove_names(self, change: RemoveNames) -> None:
        zone = self._zones.get(change.network_id)
        if zone is not None and change.owner in zone.owners:
            self._editable_zone(change.network_id, zone.label).remove(change.owner)
            self._reduced.add(change.network_id)

    def _editable_zone(self, network_id: str, label: str) -> _Zone:
        """Return the zone of a network as a copy that may be modified."""
        zone = self._zones.get(network_id) or _Zone(label)
        if network_id not in self._copied:
            zone = self._zones[network_id] = zone.copy()
            self._copied.add(network_id)
        zone.label = label
        return zone

    def _remove_unused(self) -> None:
        """Remove networks without owners and clients.

        A network that has a client is kept: questions for ``x.network`` must not be forwarded.
        """
        for network_id in self._reduced:
            zone = self._zones.get(network_id)
            if zone is None or zone.owners:
                continue
            if not any(network_id in client.networks for client in self._clients.values()):
                del self._zones[network_id]


def canonical(name: str) -> str:
    """Return the canonical form of a name for comparisons: lower case, without a trailing dot."""
    return name.lower().removesuffix(".")
