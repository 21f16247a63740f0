"""Index of the records in memory, by store key and by the fields that are often looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

import msgspec

from sandnet.core.state.schema import Record, key_of
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.model.address import decode_hook

_BASE = 2048
"""Bytes of a record, its keys and its entries in the tables."""
_STRING = 64
"""Bytes of a string besides its characters, and of the reference to it."""
_PORT = 320
"""Bytes of a port."""

R = TypeVar("R", bound=Record)


def weight(record: Record) -> int:
    """Return about how many bytes of memory a record takes, to bound the memory that requests can use."""
    match record:
        case Network():
            return _BASE + _strings_weight([*record.labels, *record.labels.values()])
        case Endpoint():
            words = [*record.labels, *record.labels.values(), *record.aliases]
            return (
                _BASE
                + _strings_weight([*words, record.owner])
                + _PORT * (len(record.ports) + len(record.exposed_ports))
            )
        case Sandbox():
            lines = [entry.name for entry in (*record.extra_hosts, *record.parent_hosts)]
            lines += [update.name for update in record.parent_updates]
            return (
                _BASE
                + _strings_weight(lines)
                + _strings_weight((record.hosts_path, record.resolv_conf_path, *record.made_dirs))
            )
        case Attachment():
            return _BASE + _strings_weight(record.aliases)


def _strings_weight(words: Collection[str]) -> int:
    return sum(map(len, words)) + _STRING * len(words)


class Table(Generic[R]):
    """The records of one class by store key, with groups of keys for frequent look-ups."""

    def __init__(self, kind: type[R]) -> None:
        self._rows: dict[str, R] = {}
        self._weights: dict[str, int] = {}
        self._groups: dict[str, dict[str, R]] = {}
        self.weight = 0
        """The weight of all records in bytes, by :func:`weight`."""
        self.decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(kind, dec_hook=decode_hook)

    def put(self, record: R) -> None:
        """Insert or replace a record."""
        key = key_of(record)
        size = weight(record)
        self.weight += size - self._weights.get(key, 0)
        self._weights[key] = size
        self._rows[key] = record
        for group in _groups_of(record):
            self._groups.setdefault(group, {})[key] = record

    def drop(self, record: R) -> None:
        """Remove a record; do nothing when it is absent."""
        key = key_of(record)
        self._rows.pop(key, None)
        self.weight -= self._weights.pop(key, 0)
        for group in _groups_of(record):
            members = self._groups.get(group, {})
            members.pop(key, None)
            if not members:
                self._groups.pop(group, None)

    def get(self, key: str) -> R | None:
        """Return the record at a store key."""
        return self._rows.get(key)

    def all(self) -> list[R]:
        """Return every record, in creation order."""
        return list(self._rows.values())

    def group(self, group: str) -> list[R]:
        """Return the members of a group, in creation order."""
        return list(self._groups.get(group, {}).values())

    def count(self, group: str) -> int:
        """Return the number of members of a group."""
        return len(self._groups.get(group, {}))


def _groups_of(record: Record) -> Iterator[str]:
    match record:
        case Network():
            yield f"name/{record.name}"
            yield f"id/{record.id}"
        case Endpoint():
            yield f"network/{record.network_id}"
            yield f"name/{record.name}"
            yield f"network/{record.network_id}/{record.name}"
            yield f"id/{record.id}"
            if record.owner:
                yield f"owner/{record.owner}"
        case Sandbox():
            yield f"key/{record.key}"
        case Attachment():
            yield f"endpoint/{record.endpoint_id}"
            yield f"container/{record.container_id}"
            yield f"network/{record.network_id}"
