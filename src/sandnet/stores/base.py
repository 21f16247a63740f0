"""What a store promises: keys, bytes, revisions, and commits that happen wholly or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple, Protocol

REBUILD: Final = "rebuild"
"""The entry of a store that replaces one that was lost, until what it lacks was looked for; its value says why."""


class Entry(NamedTuple):
    """A stored value."""

    key: str
    value: bytes
    revision: int
    """The commit that wrote it; grows with every commit, starts at 1."""


class Put(NamedTuple):
    """Write ``value`` at ``key``."""

    key: str
    value: bytes
    expect: int | None = None
    """Refuse the whole commit unless the key is at this revision; 0: absent; ``None``: whatever it is."""


class Delete(NamedTuple):
    """Remove ``key``. A key that is absent already is no error unless ``expect`` says otherwise."""

    key: str
    expect: int | None = None


Change = Put | Delete


class Snapshot(NamedTuple):
    """All entries below a watched prefix, as of one revision: the start of every watch."""

    entries: tuple[Entry, ...]
    revision: int


class Changed(NamedTuple):
    """One commit's effect below a watched prefix."""

    puts: tuple[Entry, ...]
    deletes: tuple[str, ...]
    revision: int


class Repaired(NamedTuple):
    """Something that others had done to what the store keeps, and that is undone."""

    place: str
    """Where it keeps it."""
    problem: str
    """What was wrong."""


class Conflict(Exception):  # noqa: N818 - a fact, not a fault: the caller decides again
    """A commit's expectation did not hold; nothing was written."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} was changed by somebody else")
        self.key = key


def check_keys(changes: Sequence[Change]) -> None:
    """Refuse a commit that the stores would not all understand alike.

    Raises:
        ValueError: a key is empty, is no valid Unicode, or stands twice in the commit.
    """
    seen: set[str] = set()
    for change in changes:
        if not change.key or change.key in seen:
            raise ValueError(f"empty or repeated key in one commit: {change.key!r}")
        change.key.encode()
        seen.add(change.key)


class Store(Protocol):
    """A consistent map from text keys to bytes.

    Every method may raise ``Error`` of kind ``UNAVAILABLE`` when the store is away or closed.
    """

    async def get(self, key: str) -> Entry | None:
        """The entry at ``key``, or ``None``."""
        ...

    async def list(self, prefix: str) -> Sequence[Entry]:
        """All entries whose key starts with ``prefix``, in key order; empty where there are none."""
        ...

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """Apply all changes or none and return the new revision.

        Args:
            changes: what to write.
            durable: whether it must survive a crash of the machine when this returns. The end of the process it
                survives either way, and so does everything a later durable commit follows upon. An intent need
                not: what it announces is in the kernel, which a crash of the machine empties too.

        A commit that was accepted runs to its end even when the caller is cancelled.

        Raises:
            Conflict: an ``expect`` did not hold; nothing was written.
            ValueError: a key is empty, is no valid Unicode, or stands twice in the commit.
        """
        ...

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """First a ``Snapshot``, then each later commit that touches ``prefix``.

        A lost watch starts again with a ``Snapshot``; a closed store ends it with ``UNAVAILABLE``.
        """
        ...

    def problems(self) -> Sequence[str]:
        """What is or was wrong with it since it was opened, in words; empty when nothing is."""
        ...

    async def verify(self) -> Sequence[Repaired]:
        """Look whether all that was committed is still where it is kept, and write it again where it is not.

        Returns:
            What was repaired since the last call, by commits too. What could not be is among ``problems``.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, then refuse everything."""
        ...
