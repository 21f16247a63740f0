"""A shared store in memory: the verified test double of the one on etcd. It fails on demand as a network does."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto

from sandnet.stores.base import Change, Changed, Entry, Put, Repaired, Snapshot
from sandnet.stores.contents import Contents
from sandnet.stores.shared import (
    NO_LEASES,
    SHOWN_OF_A_RANGE,
    SHOWN_OF_CHANGES,
    Absent,
    Condition,
    ConditionFailed,
    EmptyRange,
    HasValue,
    LeaseEnded,
    Present,
    UnchangedRange,
    check_transaction,
    conflict,
    expectations,
    outcome_unknown,
    store_full,
    store_unavailable,
)
from sandnet.stores.watchers import BACKLOG, Watchers, closed_error


class WriteFault(Enum):
    """A fault of the next writing request of a client."""

    LOSE_REQUEST = auto()
    """It never arrives; its sender cannot know that."""
    LOSE_ANSWER = auto()
    """It is applied; its sender cannot know that."""
    DELAY = auto()
    """It is applied when :meth:`MemoryCluster.deliver` is called; its sender gets an unknown outcome at once."""


class _Lease:
    def __init__(self, ttl: int, expire: Callable[[], None]) -> None:
        self.ttl, self._expire = ttl, expire
        self.timer = asyncio.get_running_loop().call_later(ttl, expire)

    def renew(self) -> None:
        self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(self.ttl, self._expire)


class MemoryCluster:
    """What the clients share, in one event loop."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.full = False
        """Whether puts and new leases are refused, as by an etcd that has reached its quota."""
        self._watchers: list[Watchers] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_of: dict[str, int] = {}
        self._last_lease = 0
        self._delayed: deque[Callable[[], object]] = deque()

    def attach(self, watchers: Watchers) -> None:
        """Publish all later commits to these watchers."""
        self._watchers.append(watchers)

    def detach(self, watchers: Watchers) -> None:
        """Publish to them no more."""
        self._watchers = [each for each in self._watchers if each is not watchers]

    def transact(self, changes: Sequence[Change], conditions: Sequence[Condition], leases: Mapping[str, int]) -> int:
        """Apply a transaction; see ``SharedStore.transact``."""
        if any(isinstance(change, Put) for change in changes):
            self._require_room()
        for lease in leases.values():
            self._live(lease)
        if not all(self._holds(condition) for condition in conditions):
            raise ConditionFailed(self.contents.revision, self._found(conditions))
        revision = self.contents.revision + 1
        puts = tuple(Entry(put.key, put.value, revision) for put in changes if isinstance(put, Put))
        deletes = tuple(c.key for c in changes if not isinstance(c, Put) and self.contents.get(c.key))
        for change in changes:
            self._lease_of.pop(change.key, None)
        self._lease_of.update(leases)
        return self._apply(puts, deletes)

    def grant(self, ttl: int) -> int:
        """Return a new lease."""
        self._require_room()
        self._last_lease += 1
        lease = self._last_lease
        self._leases[lease] = _Lease(ttl, lambda: self.expire(lease))
        return lease

    def _require_room(self) -> None:
        if self.full:
            raise store_full("no space is left")

    def keep_alive(self, lease: int) -> float:
        """Renew a lease; return its seconds."""
        kept = self._live(lease)
        kept.renew()
        return float(kept.ttl)

    def expire(self, lease: int) -> None:
        """End a lease, which deletes its keys in one commit."""
        if ended := self._leases.pop(lease, None):
            ended.timer.cancel()
            keys = tuple(sorted(key for key, owner in self._lease_of.items() if owner == lease))
            for key in keys:
                del self._lease_of[key]
            self._apply((), keys)

    def compact(self) -> None:
        """End every watch, as a compaction ends those that lag behind."""
        for watchers in self._watchers:
            watchers.lose()

    def restore(self, backup: Snapshot) -> None:
        """Replace all contents by an earlier snapshot of the prefix ``""``."""
        self.contents = Contents(backup.entries, backup.revision)
        self.compact()

    def delay(self, request: Callable[[], object]) -> None:
        """Keep a request on its way."""
        self._delayed.append(request)

    def deliver(self) -> None:
        """Let all delayed requests arrive, in their order. Their outcomes reach no one."""
        while self._delayed:
            with suppress(ConditionFailed, LeaseEnded):
                self._delayed.popleft()()

    def close(self) -> None:
        """Stop the clocks of the leases."""
        for lease in self._leases.values():
            lease.timer.cancel()

    def _apply(self, puts: tuple[Entry, ...], deletes: tuple[str, ...]) -> int:
        if puts or deletes:
            changed = Changed(puts, deletes, self.contents.revision + 1)
            self.contents.apply(changed)
            for watchers in self._watchers:
                watchers.publish(changed)
        return self.contents.revision

    def _live(self, lease: int) -> _Lease:
        if lease not in self._leases:
            raise LeaseEnded(lease)
        return self._leases[lease]

    def _holds(self, condition: Condition) -> bool:
        match condition:
            case EmptyRange(prefix):
                return not self.contents.list(prefix)
            case UnchangedRange():
                return not self._later(condition)
            case Absent(key):
                return self.contents.get(key) is None
        entry = self.contents.get(condition.key)
        if entry is None:
            return False
        match condition:
            case HasValue(_, value):
                return entry.value == value
            case Present(_, revision):
                return revision is None or entry.revision == revision

    def _later(self, unchanged: UnchangedRange) -> list[Entry]:
        return [entry for entry in self.contents.list(unchanged.prefix) if entry.revision > unchanged.revision]

    def _found(self, conditions: Sequence[Condition]) -> tuple[Entry, ...]:
        found: dict[str, Entry] = {}
        for condition in conditions:
            if isinstance(condition, UnchangedRange):
                found.update((entry.key, entry) for entry in self._later(condition)[:SHOWN_OF_CHANGES])
            elif isinstance(condition, EmptyRange):
                found.update((entry.key, entry) for entry in self.contents.list(condition.prefix)[:SHOWN_OF_A_RANGE])
            elif entry := self.contents.get(condition.key):
                found[entry.key] = entry
        return tuple(found[key] for key in sorted(found))


class MemorySharedStore:
    """A ``SharedStore`` in memory: one client of a cluster. None of its methods waits, watches excepted.

    Args:
        cluster: what it shares with other clients.
        backlog: commits that a watcher may lag behind before it gets a new ``Snapshot``.

    Attributes:
        faults: of the next writing requests, one each.
    """

    def __init__(self, cluster: MemoryCluster | None = None, backlog: int = BACKLOG) -> None:
        self.cluster = cluster or MemoryCluster()
        self.faults: deque[WriteFault] = deque()
        self._last_contact = time.monotonic()
        self._connected = asyncio.Event()
        self._connected.set()
        self._closed = False
        self._watchers = Watchers(backlog)
        self.cluster.attach(self._watchers)

    @property
    def last_contact(self) -> float:
        """See ``SharedStore.last_contact``."""
        if self._connected.is_set() and not self._closed:
            self._last_contact = time.monotonic()
        return self._last_contact

    def cut_off(self) -> None:
        """Lose the connection: requests are refused as not applied, and watches end."""
        self._last_contact = self.last_contact
        self._connected.clear()
        self.cluster.detach(self._watchers)
        self._watchers.lose()

    def reconnect(self) -> None:
        """Connect again."""
        self._connected.set()
        self.cluster.attach(self._watchers)

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``."""
        return self._contents().get(key)

    async def list(self, prefix: str) -> Sequence[Entry]:
        """See ``Store.list``."""
        return self._contents().list(prefix)

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``."""
        try:
            return await self.transact(changes)
        except ConditionFailed as refused:
            raise conflict(changes, refused) from None

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``SharedStore``."""
        return self._watchers.watch(prefix, self._snapshot_when_connected)

    async def transact(
        self,
        changes: Sequence[Change],
        conditions: Sequence[Condition] = (),
        *,
        leases: Mapping[str, int] = NO_LEASES,
        repeatable: bool = False,
        deadline: float | None = None,
    ) -> int:
        """See ``SharedStore.transact``."""
        conditions = [*conditions, *expectations(changes)]
        check_transaction(changes, conditions, leases)
        return self._write(lambda: self.cluster.transact(changes, conditions, leases), repeatable=repeatable)

    async def read(self, keys: Sequence[str], *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.read``."""
        contents = self._contents()
        entries = (contents.get(key) for key in sorted(set(keys)))
        return Snapshot(tuple(entry for entry in entries if entry), contents.revision)

    async def snapshot(self, prefix: str, *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.snapshot``."""
        return self._contents().snapshot(prefix)

    async def grant(self, ttl: int, *, deadline: float | None = None) -> int:
        """See ``SharedStore.grant``."""
        self._contents()
        return self.cluster.grant(ttl)

    async def keep_alive(self, lease: int, *, deadline: float | None = None) -> float:
        """See ``SharedStore.keep_alive``."""
        self._contents()
        return self.cluster.keep_alive(lease)

    async def revoke(self, lease: int, *, deadline: float | None = None) -> None:
        """See ``SharedStore.revoke``."""
        self._contents()
        self.cluster.expire(lease)

    def problems(self) -> Sequence[str]:
        """See ``Store.problems``."""
        return () if self._connected.is_set() else ("the shared store does not answer",)

    async def verify(self) -> Sequence[Repaired]:
        """See ``Store.verify``: the cluster takes care of its own data."""
        return ()

    async def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        self._connected.set()
        self._watchers.close()
        self.cluster.detach(self._watchers)

    def _write(self, request: Callable[[], int], *, repeatable: bool) -> int:
        self._contents()
        fault = self.faults.popleft() if self.faults else None
        if fault is None:
            return request()
        if fault is WriteFault.DELAY:
            self.cluster.delay(request)
        if fault is WriteFault.LOSE_ANSWER:
            with suppress(ConditionFailed, LeaseEnded):
                request()
        if repeatable:
            return request()
        raise outcome_unknown("the answer was lost")

    async def _snapshot_when_connected(self, prefix: str) -> Snapshot:
        await self._connected.wait()
        return self._contents().snapshot(prefix)

    def _contents(self) -> Contents:
        if self._closed:
            raise closed_error()
        if not self._connected.is_set():
            raise store_unavailable("no member answers")
        return self.cluster.contents
