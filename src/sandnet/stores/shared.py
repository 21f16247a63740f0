"""The interface of a store that several hosts share: transactions with conditions, leases, and an unknown outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from sandnet.errors import Error, Kind, UnavailableError
from sandnet.stores.base import Change, Conflict, Entry, Put, Snapshot, Store, check_keys

MOST_OPERATIONS: Final = 128
"""Limit of the changes of one transaction, and of its conditions: that of etcd unless it is configured otherwise."""
MOST_BYTES: Final = 1 << 20
"""Limit of the keys and values of one transaction. etcd refuses requests beyond 1.5 MiB."""
SHOWN_OF_A_RANGE: Final = 4
"""How many entries a refusal shows of a range that should have been empty."""
SHOWN_OF_CHANGES: Final = 64
"""How many of the later entries a refusal shows of a range that should not have changed."""
DEADLINE: Final = 1.5
"""Seconds until a request without an answer is given up."""
NO_LEASES: Final[Mapping[str, int]] = {}


class Present(NamedTuple):
    """The key is present, at this revision unless it is ``None``."""

    key: str
    revision: int | None = None


class Absent(NamedTuple):
    """The key is absent."""

    key: str


class HasValue(NamedTuple):
    """The key is present with this value."""

    key: str
    value: bytes


class EmptyRange(NamedTuple):
    """No key begins with the prefix."""

    prefix: str


class UnchangedRange(NamedTuple):
    """No key that begins with the prefix was created or written after the revision. Deletions do not count."""

    prefix: str
    revision: int


Condition = Present | Absent | HasValue | EmptyRange | UnchangedRange


class ConditionFailed(Exception):  # noqa: N818 - no error: the caller decides again
    """A condition of a transaction did not hold; nothing was written.

    Attributes:
        revision: of the store when the conditions were compared.
        found: the entries at the keys of the conditions at that revision, in key order; of a range the first ones, and
            of one that should not have changed those that are later.
    """

    def __init__(self, revision: int, found: tuple[Entry, ...]) -> None:
        super().__init__(f"refused at revision {revision}; found: {', '.join(e.key for e in found) or 'no entries'}")
        self.revision, self.found = revision, found

    def at(self, key: str) -> Entry | None:
        """Return the entry that was found at ``key``."""
        return next((entry for entry in self.found if entry.key == key), None)


class LeaseEnded(Exception):  # noqa: N818 - no error: the caller claims again
    """The lease has expired or was revoked, and its keys are deleted; nothing was written."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"the lease {lease:x} has ended")
        self.lease = lease


class OutcomeUnknown(UnavailableError):  # noqa: N818 - it is no failure: perhaps it was applied
    """A write was sent and not answered: it may have been applied, may be applied later, or never. Its code is
    ``outcome_unknown``.
    """


def outcome_unknown(reason: str) -> OutcomeUnknown:
    """Return the error of a write without an answer."""
    hint = "repeat the request: it is known by then whether the first one was applied"
    return OutcomeUnknown(
        Kind.UNAVAILABLE, f"the shared store did not answer a write: {reason}", hint, "outcome_unknown"
    )


def store_unavailable(reason: str, hint: str = "") -> Error:
    """Return the error of a request that was certainly not applied."""
    hint = hint or "the request can be repeated when the store answers again"
    return Error(Kind.UNAVAILABLE, f"the shared store is unavailable: {reason}", hint, "store_unavailable")


def store_full(reason: str) -> Error:
    """Return the error of a write that the store has no room for."""
    hint = "compact and defragment etcd or raise its quota, then disarm its alarm; deletions go on"
    return Error(Kind.UNAVAILABLE, f"the shared store is full: {reason}", hint, "store_full")


class SharedStore(Store, Protocol):
    """A ``Store`` with several clients at once.

    A commit survives as the shared store's configuration promises; ``durable`` has no influence. Every method has a
    deadline, after which it raises: ``OutcomeUnknown`` when a write may have been applied, else ``Error`` of kind
    ``UNAVAILABLE``, whose code is ``store_unavailable``, ``store_full`` (only writes are refused), ``store_denied`` (a
    right is missing) or ``store_unauthorized`` (user, password or certificate are refused).

    A watch never ends by itself: whatever happens to it, it waits until the store answers again, and goes on with a
    ``Snapshot``. A store that was restored from a backup has a lower revision: watches begin with a ``Snapshot``, too.
    """

    @property
    def last_contact(self) -> float:
        """Time (``time.monotonic``) of the last answer; before any, that of the store's construction."""
        ...

    async def transact(
        self,
        changes: Sequence[Change],
        conditions: Sequence[Condition] = (),
        *,
        leases: Mapping[str, int] = NO_LEASES,
        repeatable: bool = False,
        deadline: float | None = None,
    ) -> int:
        """Apply all changes atomically if all conditions hold, and return the revision.

        Args:
            changes: what to write; the revisions that they ``expect`` are further conditions.
            conditions: what must be true when the changes are applied.
            leases: leases by the keys of puts: such an entry is deleted when its lease ends. A put without a lease
                detaches the key from the one that it had.
            repeatable: whether the store may send the transaction once more, to another member, when one does not
                answer. Only for what does no harm when it is applied twice, a long time apart: what compares all that
                it replaces, or only deletes.
            deadline: seconds for all attempts; ``None``: the store's.

        A transaction that changes nothing keeps the revision. An accepted transaction is completed even when the caller
        is cancelled.

        Raises:
            ConditionFailed: a condition did not hold; when it is repeatable, perhaps because it was applied before.
            LeaseEnded: one of the leases has ended; conditions may not have been compared.
            OutcomeUnknown: the store did not answer.
            Error: ``INVALID``, code ``transaction_too_large``: more than ``MOST_OPERATIONS`` or ``MOST_BYTES``.
            ValueError: as ``Store.commit``; a lease is for a key that is not put.
        """
        ...

    async def read(self, keys: Sequence[str], *, deadline: float | None = None) -> Snapshot:
        """Return the entries at some keys, all at one revision, in key order; absent ones are left out."""
        ...

    async def snapshot(self, prefix: str, *, deadline: float | None = None) -> Snapshot:
        """Return all entries below a prefix at one revision, in key order.

        The deadline is for each of the requests that it takes.
        """
        ...

    async def grant(self, ttl: int, *, deadline: float | None = None) -> int:
        """Return a new lease that ends after ``ttl`` seconds unless it is kept alive.

        A grant without an answer is repeated; a lease that no one knows of ends by itself.
        """
        ...

    async def keep_alive(self, lease: int, *, deadline: float | None = None) -> float:
        """Renew a lease; return the seconds that it lasts from the sending of the request.

        Raises:
            LeaseEnded: it has expired or was revoked.
        """
        ...

    async def revoke(self, lease: int, *, deadline: float | None = None) -> None:
        """End a lease and delete its keys; an ended one is no error."""
        ...


def check_transaction(changes: Sequence[Change], conditions: Sequence[Condition], leases: Mapping[str, int]) -> None:
    """Check a transaction, so that all stores treat it in the same way.

    Raises:
        Error: it is too large.
        ValueError: a key is empty, is no valid Unicode or occurs twice, or a lease is for a key that is not put.
    """
    check_keys(changes)
    puts = [change for change in changes if isinstance(change, Put)]
    if unknown := leases.keys() - {put.key for put in puts}:
        raise ValueError(f"leases for keys that are not put: {sorted(unknown)}")
    for condition in conditions:
        condition[0].encode()
        if not condition[0] and not isinstance(condition, EmptyRange | UnchangedRange):
            raise ValueError("a condition without a key")
    most = max(len(changes), len(conditions))
    if most > MOST_OPERATIONS:
        raise _too_large(f"{most} operations", f"{MOST_OPERATIONS} operations")
    size = sum(len(change.key) for change in changes) + sum(len(put.value) for put in puts)
    if size > MOST_BYTES:
        raise _too_large(f"{size} bytes", f"{MOST_BYTES} bytes")


def _too_large(what: str, most: str) -> Error:
    message = f"a transaction of {what} is too large for the shared store"
    return Error(Kind.INVALID, message, f"it takes at most {most}", "transaction_too_large")


def expectations(changes: Sequence[Change]) -> list[Condition]:
    """Return the conditions that the changes expect."""
    return [
        Present(change.key, change.expect) if change.expect else Absent(change.key)
        for change in changes
        if change.expect is not None
    ]


def conflict(changes: Sequence[Change], refused: ConditionFailed) -> Conflict:
    """Return the conflict of a commit whose expectations were refused."""
    revisions = {entry.key: entry.revision for entry in refused.found}
    wrong = (c.key for c in changes if c.expect is not None and c.expect != revisions.get(c.key, 0))
    return Conflict(next(wrong))
