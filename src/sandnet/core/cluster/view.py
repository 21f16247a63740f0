"""What the shared store holds, in memory: it begins with a snapshot and follows the watch.

The host's own transactions are applied from their answers, before the watch delivers them, so that its clients read
what they wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from sandnet.core.cluster.shared_values import (
    ALIVE,
    ATTACHED,
    HOSTS,
    SUBNETS,
    Alive,
    AttachmentKey,
    HostRecord,
    SharedAttachment,
    SharedEndpoint,
    SharedNetwork,
    V,
    attached_prefix,
    attachment_key,
    decode,
    holder_key,
    is_attachment_key,
)
from sandnet.core.state.schema import ENDPOINTS, NETWORKS, endpoints_prefix, network_key
from sandnet.stores.base import Changed, Entry, Snapshot

_log = logging.getLogger(__name__)

_GROUPED: Final = (ENDPOINTS, ATTACHED)
"""Prefixes whose keys have a group: that of a network, or of an endpoint."""


class Held(NamedTuple):
    """An attachment as it was read."""

    key: AttachmentKey
    attachment: SharedAttachment
    entry: Entry


class ClusterView:
    """The entries of the shared store by key, as far as this host knows them: none before the first snapshot."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._groups: dict[str, dict[str, Entry]] = {}
        """By ``host/``, ``network/``, ``claim/subnet/``, ``endpoint/N/``, ``attached/E/`` and ``attached//H/``."""
        self._deleted: dict[str, int] = {}
        """Keys that this host deleted, and the revision, until the watch has come that far."""
        self._endpoint_keys: dict[str, str] = {}
        self._values: dict[str, tuple[Entry, object]] = {}
        """Decoded values, and the entry that each is of."""
        self.revision = 0
        """The revision up to which the watch has been applied; 0: there was no snapshot yet."""

    # Changes.

    def apply(self, event: Snapshot | Changed) -> set[str]:
        """Apply what a watch yields; return the keys whose values changed."""
        if isinstance(event, Snapshot):
            return self._replace(event)
        self.revision = event.revision
        self._deleted = {key: at for key, at in self._deleted.items() if at > event.revision}
        changed = {entry.key for entry in event.puts if self._put(entry)}
        for key in event.deletes:
            known = self._entries.get(key)
            if known and known.revision < event.revision:
                self._drop(key)
                changed.add(key)
        return changed

    def apply_own(self, puts: Iterable[tuple[str, bytes]], deletes: Iterable[str], revision: int) -> None:
        """Apply a transaction of this host that the store accepted at ``revision``.

        The watch may have come further before the answer: then it has shown this transaction, and perhaps that another
        host has deleted or changed the same since.
        """
        if revision <= self.revision:
            return
        for key, value in puts:
            self._deleted.pop(key, None)
            self._put(Entry(key, value, revision))
        for key in deletes:
            known = self._entries.get(key)
            if known and known.revision < revision:
                self._drop(key)
            self._deleted[key] = max(revision, self._deleted.get(key, 0))

    def _replace(self, snapshot: Snapshot) -> set[str]:
        """Take a snapshot as the whole truth. What this host wrote later is in the watch that follows."""
        found = {entry.key: entry for entry in snapshot.entries}
        gone = self._entries.keys() - found.keys()
        changed = {key for key, entry in found.items() if self._value_of(key) != entry.value} | gone
        for key in [*gone]:
            self._drop(key)
        self._deleted.clear()
        for entry in snapshot.entries:
            self._insert(entry)
        self.revision = snapshot.revision
        return changed

    def _value_of(self, key: str) -> bytes | None:
        known = self._entries.get(key)
        return known.value if known else None

    def _put(self, entry: Entry) -> bool:
        known = self._entries.get(entry.key)
        if (known and known.revision >= entry.revision) or self._deleted.get(entry.key, 0) > entry.revision:
            return known is not None and known.revision == entry.revision  # its own, whose effects are still to follow
        self._insert(entry)
        return known is None or known.value != entry.value

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        for group in _groups_of(entry.key):
            self._groups.setdefault(group, {})[entry.key] = entry
        if entry.key.startswith(ENDPOINTS):
            self._endpoint_keys[entry.key.rpartition("/")[2]] = entry.key

    def _drop(self, key: str) -> None:
        del self._entries[key]
        self._values.pop(key, None)
        for group in _groups_of(key):
            members = self._groups.get(group, {})
            members.pop(key, None)
            if not members:
                self._groups.pop(group, None)
        if key.startswith(ENDPOINTS):
            self._endpoint_keys.pop(key.rpartition("/")[2], None)

    # Look-ups.

    def entry(self, key: str) -> Entry | None:
        """Return the entry at a key."""
        return self._entries.get(key)

    def host(self, name: str) -> HostRecord | None:
        """Return a host's record of itself."""
        return self._decoded(f"{HOSTS}{name}", HostRecord)

    def hosts(self) -> list[HostRecord]:
        """Return all hosts that were not removed, by name."""
        names = sorted(key.removeprefix(HOSTS) for key in self._groups.get(HOSTS, ()))
        return [host for host in map(self.host, names) if host]

    @property
    def host_count(self) -> int:
        """How many hosts were not removed, those included whose record cannot be read."""
        return len(self._groups.get(HOSTS, ()))

    def alive(self, name: str) -> Alive | None:
        """Return the lease of a host; ``None``: it has ended."""
        return self._decoded(f"{ALIVE}{name}", Alive)

    def network(self, network_id: str) -> SharedNetwork | None:
        """Return the network with that full id."""
        return self._decoded(network_key(network_id), SharedNetwork)

    def network_ids(self) -> list[str]:
        """Return the ids of all networks."""
        return [key.removeprefix(NETWORKS) for key in self._groups.get(NETWORKS, ())]

    def subnet_claims(self) -> list[Entry]:
        """Return the claims of subnets: all that the store had at :attr:`revision`, and later ones of this host."""
        return [*self._groups.get(SUBNETS, {}).values()]

    def endpoint(self, endpoint_id: str) -> SharedEndpoint | None:
        """Return the endpoint with that full id, whether it counts or not."""
        key = self._endpoint_keys.get(endpoint_id)
        return self._decoded(key, SharedEndpoint) if key else None

    def endpoint_entry(self, endpoint_id: str) -> Entry | None:
        """Return the entry of that endpoint."""
        return self._entries.get(self._endpoint_keys.get(endpoint_id, ""))

    def endpoint_ids(self, network_id: str | None = None) -> list[str]:
        """Return the ids of the endpoints of a network, or of all."""
        if network_id is None:
            return list(self._endpoint_keys)
        return [key.rpartition("/")[2] for key in self._groups.get(endpoints_prefix(network_id), ())]

    def attachments(self, endpoint_id: str) -> list[Held]:
        """Return the attachments to an endpoint, whether they count or not."""
        return self._held(attached_prefix(endpoint_id))

    def attachments_of_host(self, host: str) -> list[Held]:
        """Return the attachments of a host, whether they count or not."""
        return self._held(_host_group(host))

    def attachment(self, key: AttachmentKey) -> Held | None:
        """Return the attachment with that key."""
        entry = self._entries.get(key.key)
        value = self._decoded(key.key, SharedAttachment)
        return Held(key, value, entry) if value and entry else None

    def holder(self, endpoint_id: str) -> Entry | None:
        """Return the entry that names the attachment which answers for an endpoint's address."""
        return self._entries.get(holder_key(endpoint_id))

    def is_held(self, endpoint_id: str) -> bool:
        """Return whether an attachment that counts answers for an endpoint's address."""
        holder = self.holder(endpoint_id)
        held = self.attachment(attachment_key(holder.value.decode())) if holder else None
        return held is not None and self.counts(held.attachment)

    def counts(self, attachment: SharedAttachment) -> bool:
        """Return whether the lease of an attachment's host lasts."""
        alive = self.alive(attachment.host)
        return alive is not None and alive.number == attachment.number

    def counts_endpoint(self, shared: SharedEndpoint) -> bool:
        """Return whether an endpoint has no owner, or the lease of its host lasts."""
        if not shared.number:
            return True
        alive = self.alive(shared.host)
        return alive is not None and alive.number == shared.number

    def counted(self, endpoint_id: str) -> Sequence[Held]:
        """Return the attachments to an endpoint that count."""
        return [held for held in self.attachments(endpoint_id) if self.counts(held.attachment)]

    def _held(self, group: str) -> list[Held]:
        found = [(entry, self._decoded(key, SharedAttachment)) for key, entry in self._groups.get(group, {}).items()]
        return [Held(attachment_key(entry.key), value, entry) for entry, value in found if value]

    def _decoded(self, key: str, kind: type[V]) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        known = self._values.get(key)
        if known and known[0] is entry:
            return known[1] if isinstance(known[1], kind) else None
        value: V | None = None
        try:
            value = decode(entry.value, kind)
        except (msgspec.DecodeError, ValueError) as failure:
            _log.warning("the shared store holds a value that cannot be read: %s: %s", key, failure)
        self._values[key] = (entry, value)
        return value


def _host_group(host: str) -> str:
    return f"{ATTACHED}/{host}/"


def _groups_of(key: str) -> Iterable[str]:
    yield from (group for group in (HOSTS, NETWORKS, SUBNETS) if key.startswith(group))
    if key.startswith(_GROUPED):
        first, _, rest = key.partition("/")
        yield f"{first}/{rest.partition('/')[0]}/"
    if is_attachment_key(key):
        yield _host_group(attachment_key(key).host)
