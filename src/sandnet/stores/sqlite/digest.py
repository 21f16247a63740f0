"""A checksum over all that a store holds, kept up to date change by change.

It is the sum of one hash for each row, so that a change costs the hashes of the rows it touches and not a walk
over all of them. A page that comes from another time than its neighbours, as a log that lost its middle leaves
behind, is sound by itself; the sum tells that the whole is not.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final, Self

_SIZE: Final = 16
"""Bytes of a hash and of the sum."""
_MODULUS: Final = 1 << (8 * _SIZE)
_HEAD: Final = struct.Struct("<Qq")

CONTENT_DIGEST: Final = """\
SELECT content_digest(key, value, revision)
FROM (SELECT key, value, revision FROM entries UNION ALL SELECT '', x'', revision FROM head)"""
"""The checksum of what stands in the tables; the store's own revision counts as the row of the empty key."""


def _hash(key: str, value: bytes, revision: int) -> int:
    name = key.encode()
    return int.from_bytes(blake2b(_HEAD.pack(len(name), revision) + name + value, digest_size=_SIZE).digest(), "big")


class Digest:
    """The sum, in the making."""

    def __init__(self, stored: bytes = b"") -> None:
        self._sum = int.from_bytes(stored, "big")

    def add(self, key: str, value: bytes, revision: int) -> Self:
        """A row is there now."""
        self._sum = (self._sum + _hash(key, value, revision)) % _MODULUS
        return self

    def remove(self, key: str, value: bytes, revision: int) -> Self:
        """A row is there no longer."""
        self._sum = (self._sum - _hash(key, value, revision)) % _MODULUS
        return self

    def stored(self) -> bytes:
        """As the database keeps it."""
        return self._sum.to_bytes(_SIZE, "big")

    step = add
    """SQLite's name for the same (sqlite3.Connection.create_aggregate)."""
    finalize = stored
