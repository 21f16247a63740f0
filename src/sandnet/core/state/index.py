"""Index of the records in memory, by store key and by the fields that are often looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from sandnet.core.state.schema import Record, key_of
from sandnet.errors import Error, Kind
from sandnet.model import Attachment, Endpoint, Network, Sandbox
from sandnet.model.address import decode_hook

_BASE = 2048
"""Bytes of a record, its keys and its entries in the tables."""
_STRING = 64
"""Bytes of a string besides its characters, and of the reference to it."""
_ADDRESS = 320
"""Bytes of an additional address."""
_PORT = 320
"""Bytes of a port."""

MOST_BYTES = 256 << 20
"""Bytes of memory that all records may take: enough for more than a hundred thousand small ones."""

R = TypeVar("R", bound=Record)

_DECODERS: Final[Mapping[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind, dec_hook=decode_hook) for kind in (Network, Endpoint, Sandbox, Attachment)
}


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
                + _ADDRESS * len(record.additional_addresses)
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
            return _BASE + _strings_weight(record.aliases) + _ADDRESS * len(record.additional_addresses)


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
        self.decoder: msgspec.json.Decoder[R] = _DECODERS[kind]

    def put(self, record: R) -> None:
        """Insert or replace a record."""
        key = key_of(record)
        size = weight(record)
        self.weight += size - self._weights.get(key, 0)
        self._weights[key] = size
        before, groups = self._rows.get(key), [*_groups_of(record)]
        self._rows[key] = record
        if before is not None:
            self._leave(key, (group for group in _groups_of(before) if group not in groups))
        for group in groups:
            self._groups.setdefault(group, {})[key] = record

    def drop(self, record: R) -> None:
        """Remove a record; do nothing when it is absent."""
        key = key_of(record)
        self._rows.pop(key, None)
        self.weight -= self._weights.pop(key, 0)
        self._leave(key, _groups_of(record))

    def _leave(self, key: str, groups: Iterable[str]) -> None:
        for group in groups:
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


def refuse_too_many(tables: Iterable[Table[Any]], fresh: Iterable[Record]) -> None:
    """Refuse new records that would take more memory than all records may.

    Raises:
        Error: ``EXHAUSTED``.
    """
    if sum(table.weight for table in tables) + sum(map(weight, fresh)) > MOST_BYTES:
        message = f"the records of networks, endpoints and sandboxes take {MOST_BYTES >> 20} MiB, as many as they may"
        hint = "delete what is not needed, or use fewer and shorter labels"
        raise Error(Kind.EXHAUSTED, message, hint, "records_full")


def _groups_of(record: Record) -> Iterator[str]:
    match record:
        case Network():
            yield f"name/{record.name}"
            yield f"id/{record.id}"
            yield from (f"link/{link}" for link in record.links)
        case Endpoint():
            yield f"network/{record.network_id}"
            yield f"name/{record.name}"
            yield f"network/{record.network_id}/{record.name}"
            yield f"id/{record.id}"
            if record.owner:
                yield f"owner/{record.owner}"
        case Sandbox():
            yield f"key/{record.key}"
            yield f"inode/{record.inode}"
        case Attachment():
            yield f"endpoint/{record.endpoint_id}"
            yield f"container/{record.container_id}"
            yield f"network/{record.network_id}"
            if record.host_link:
                yield f"link/{record.host_link}"
