"""The interface of a store: a key-value map with revisions, atomic commits and watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple, Protocol

REBUILD: Final = "rebuild"
"""Key of the entry in a store that replaces a lost one, until the missing records are restored; its value is the
reason."""


class Entry(NamedTuple):
    """A stored value."""

    key: str
    value: bytes
    revision: int
    """Revision of the commit that wrote it; revisions are positive and grow with every commit that changes entries."""


class Put(NamedTuple):
    """Write ``value`` at ``key``."""

    key: str
    value: bytes
    expect: int | None = None
    """Revision that the key must have, else the whole commit is refused; 0: absent; ``None``: not checked."""


class Delete(NamedTuple):
    """Remove ``key``. A key that is absent already is no error unless ``expect`` requires it."""

    key: str
    expect: int | None = None


Change = Put | Delete


class Snapshot(NamedTuple):
    """All entries below a watched prefix at one revision; every watch begins with it."""

    entries: tuple[Entry, ...]
    revision: int


class Changed(NamedTuple):
    """The changes of one commit below a watched prefix."""

    puts: tuple[Entry, ...]
    deletes: tuple[str, ...]
    revision: int


class Repaired(NamedTuple):
    """A repair of the store's data after another program changed them."""

    place: str
    """Place of the data, such as a path."""
    problem: str
    """Description of what was wrong."""


class Conflict(Exception):  # noqa: N818 - no error: the caller decides again
    """The expectation of a commit did not hold; nothing was written."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} was changed by another process")
        self.key = key


def check_keys(changes: Sequence[Change]) -> None:
    """Check the keys of a commit, so that all stores treat it in the same way.

    Raises:
        ValueError: a key is empty, is no valid Unicode, or occurs twice in the commit.
    """
    seen: set[str] = set()
    for change in changes:
        if not change.key or change.key in seen:
            raise ValueError(f"empty or repeated key in one commit: {change.key!r}")
        change.key.encode()
        seen.add(change.key)


class Store(Protocol):
    """A consistent map from text keys to bytes.

    Every method may raise ``Error`` of kind ``UNAVAILABLE`` when the store is unavailable or closed.
    """

    async def get(self, key: str) -> Entry | None:
        """Return the entry at ``key``; ``None``: there is none."""
        ...

    async def list(self, prefix: str) -> Sequence[Entry]:
        """Return all entries whose key starts with ``prefix``, in key order."""
        ...

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """Apply all changes atomically and return the new revision.

        Args:
            changes: what to write.
            durable: whether the commit must survive a crash of the machine when this returns. Any commit survives the
                exit of the process, and a later durable commit makes all earlier ones durable too. An intent need not
                be durable: it announces state of the kernel, which a crash of the machine removes too.

        An accepted commit is completed even when the caller is cancelled.

        Raises:
            Conflict: an ``expect`` did not hold; nothing was written.
            ValueError: a key is empty, is no valid Unicode, or occurs twice in the commit.
        """
        ...

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """Yield a ``Snapshot``, then each later commit that changes keys below ``prefix``.

        A watch that missed commits starts again with a ``Snapshot``. A closed store ends it with ``UNAVAILABLE``.
        """
        ...

    def problems(self) -> Sequence[str]:
        """Return descriptions of all problems with the store since it was opened."""
        ...

    async def verify(self) -> Sequence[Repaired]:
        """Check whether all commits are still stored, and write missing data again.

        Returns:
            The repairs since the last call, those by commits included. Failed repairs are among ``problems``.
        """
        ...

    async def close(self) -> None:
        """Complete the accepted commits, then refuse all calls."""
        ...
