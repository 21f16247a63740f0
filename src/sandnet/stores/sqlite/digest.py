"""An incremental checksum over the contents of a store.

It is the sum of one hash for each row. So a change costs only the hashes of the changed rows, not of all. It detects a
page that is older or newer than its neighbours, as a write-ahead log with a missing part causes. Such a page is valid
by itself, but does not match the sum.
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
"""Query for the checksum of the tables; the store's revision counts as a row with an empty key."""


def _hash(key: str, value: bytes, revision: int) -> int:
    name = key.encode()
    return int.from_bytes(blake2b(_HEAD.pack(len(name), revision) + name + value, digest_size=_SIZE).digest(), "big")


class Digest:
    """A checksum that rows are added to and removed from."""

    def __init__(self, stored: bytes = b"") -> None:
        self._sum = int.from_bytes(stored, "big")

    def add(self, key: str, value: bytes, revision: int) -> Self:
        """Add a row."""
        self._sum = (self._sum + _hash(key, value, revision)) % _MODULUS
        return self

    def remove(self, key: str, value: bytes, revision: int) -> Self:
        """Remove a row."""
        self._sum = (self._sum - _hash(key, value, revision)) % _MODULUS
        return self

    def stored(self) -> bytes:
        """Return the checksum in the format of the database."""
        return self._sum.to_bytes(_SIZE, "big")

    step = add
    """SQLite's name of :meth:`add` (sqlite3.Connection.create_aggregate)."""
    finalize = stored
