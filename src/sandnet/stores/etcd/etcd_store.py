"""The shared store on etcd."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from sandnet.errors import Error
from sandnet.stores.base import Change, Changed, Delete, Entry, Repaired, Snapshot
from sandnet.stores.etcd import gateway
from sandnet.stores.etcd.etcd_client import Effect, EtcdClient, StatusRefused
from sandnet.stores.etcd.feed import Feed
from sandnet.stores.etcd.gateway import LeaseAnswer, RangeAnswer, TxnAnswer
from sandnet.stores.etcd.location import EtcdLocation
from sandnet.stores.etcd.member_checks import MemberChecks
from sandnet.stores.etcd.statuses import Meaning
from sandnet.stores.shared import (
    DEADLINE,
    MOST_OPERATIONS,
    NO_LEASES,
    Condition,
    ConditionFailed,
    LeaseEnded,
    Present,
    check_transaction,
    conflict,
    expectations,
)
from sandnet.stores.watchers import BACKLOG, Watchers, closed_error

T = TypeVar("T")

PAGE: Final = 1000
"""Entries of one read of a range."""
_SNAPSHOT_ATTEMPTS: Final = 5
"""How often a snapshot is begun again because its revision was compacted while it was read."""
_NO_KEY: Final = "none"
"""A key that no one writes."""
_SNAPSHOT_DELAY: Final = 0.5
"""Upper limit of the seconds until a watch attempts its snapshot again."""


class EtcdStore:
    """A ``SharedStore`` on etcd. It connects when it is first used.

    Args:
        location: of the cluster, with our credentials.
        deadline: seconds for a request that has none of its own.
        backlog: commits that a watcher may lag behind before it gets a new ``Snapshot``.
    """

    def __init__(self, location: EtcdLocation, deadline: float = DEADLINE, backlog: int = BACKLOG) -> None:
        self._prefix = location.prefix.encode()
        self._watchers = Watchers(backlog)
        self._client = EtcdClient(location, deadline, self._restored)
        self._feed = Feed(self._client, self._prefix, self._watchers)
        self._checks = MemberChecks(self._client, self._try_to_write)
        self._writes: set[asyncio.Task[int]] = set()
        self._closed = False

    @property
    def last_contact(self) -> float:
        """See ``SharedStore.last_contact``."""
        return self._client.last_contact

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``."""
        found = (await self.read([key])).entries
        return found[0] if found else None

    async def list(self, prefix: str) -> Sequence[Entry]:
        """See ``Store.list``."""
        return [*(await self.snapshot(prefix)).entries]

    async def commit(self, *changes: Change, durable: bool = True) -> int:
        """See ``Store.commit``."""
        try:
            return await self.transact(changes)
        except ConditionFailed as failed:
            raise conflict(changes, failed) from None

    def watch(self, prefix: str) -> AsyncGenerator[Snapshot | Changed, None]:
        """See ``SharedStore``."""
        self._checks.start()
        return self._watchers.watch(prefix, self._watched_snapshot)

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
        self._check_open()
        conditions = [*conditions, *expectations(changes)]
        check_transaction(changes, conditions, leases)
        effect = Effect.NONE if not changes else Effect.REPEATABLE if repeatable else Effect.ONCE
        return await self._completed(self._transact(changes, conditions, leases, effect, deadline))

    async def read(self, keys: Sequence[str], *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.read``."""
        self._check_open()
        wanted = [self._prefix + key.encode() for key in sorted(set(keys))]
        entries: list[Entry] = []
        revision = 0
        for start in range(0, max(1, len(wanted)), MOST_OPERATIONS):
            body = gateway.reads_request(wanted[start : start + MOST_OPERATIONS], revision)
            answer = await self._query(gateway.TXN, body, TxnAnswer, deadline=deadline)
            revision = revision or answer.header.revision
            entries += answer.found(self._prefix)
        return Snapshot(tuple(entries), revision)

    async def snapshot(self, prefix: str, *, deadline: float | None = None) -> Snapshot:
        """See ``SharedStore.snapshot``."""
        self._check_open()
        for attempt in range(_SNAPSHOT_ATTEMPTS):
            try:
                return await self._pages(self._prefix + prefix.encode(), deadline)
            except StatusRefused as refused:
                if refused.meaning is not Meaning.COMPACTED or attempt == _SNAPSHOT_ATTEMPTS - 1:
                    raise refused.error from None
        raise AssertionError("no attempts")

    async def grant(self, ttl: int, *, deadline: float | None = None) -> int:
        """See ``SharedStore.grant``."""
        self._check_open()
        body = gateway.grant_request(ttl)
        try:
            answer = await self._query(gateway.GRANT, body, LeaseAnswer, Effect.REPEATABLE, deadline)
        except Error as failure:
            self._checks.note_refusal(failure)
            raise
        return answer.ID

    async def keep_alive(self, lease: int, *, deadline: float | None = None) -> float:
        """See ``SharedStore.keep_alive``."""
        self._check_open()
        body = gateway.lease_request(lease)
        answer = await self._query(gateway.KEEP_ALIVE, body, LeaseAnswer, deadline=deadline)
        if answer.TTL <= 0:
            raise LeaseEnded(lease)
        return float(answer.TTL)

    async def revoke(self, lease: int, *, deadline: float | None = None) -> None:
        """See ``SharedStore.revoke``."""
        self._check_open()
        body = gateway.lease_request(lease)
        try:
            await self._client.query(gateway.REVOKE, body, LeaseAnswer, Effect.REPEATABLE, deadline)
        except StatusRefused as refused:
            if refused.meaning is not Meaning.LEASE_ENDED:
                raise refused.error from None

    def problems(self) -> Sequence[str]:
        """See ``Store.problems``: why the last request failed, why nothing is watched, and what members report."""
        found = self._client.problem, self._feed.problem, *self._checks.problems
        return [problem for problem in found if problem]

    async def verify(self) -> Sequence[Repaired]:
        """See ``Store.verify``: the cluster takes care of its own data."""
        return ()

    async def close(self) -> None:
        """See ``Store.close``."""
        self._closed = True
        if self._writes:
            await asyncio.wait(self._writes)
        self._watchers.close()
        await self._checks.close()
        await self._feed.close()
        self._client.close()

    async def _transact(
        self,
        changes: Sequence[Change],
        conditions: Sequence[Condition],
        leases: Mapping[str, int],
        effect: Effect,
        deadline: float | None,
    ) -> int:
        body = gateway.transaction_request(self._prefix, changes, conditions, leases)
        try:
            answer = await self._client.query(gateway.TXN, body, TxnAnswer, effect, deadline)
        except StatusRefused as refused:
            if refused.meaning is not Meaning.LEASE_ENDED:
                raise refused.error from None
            raise LeaseEnded(next(iter(leases.values()))) from None
        except Error as failure:
            self._checks.note_refusal(failure)
            raise
        if not answer.succeeded:
            raise ConditionFailed(answer.header.revision, answer.found(self._prefix))
        return answer.header.revision

    async def _completed(self, write: Coroutine[None, None, int]) -> int:
        """Return the outcome of a write. A cancellation arrives after it: the caller must not go on in between."""
        task = asyncio.ensure_future(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            task.exception()
            raise

    async def _pages(self, start: bytes, deadline: float | None) -> Snapshot:
        """Read a range, piece by piece at one revision."""
        end = gateway.end_of(start)
        entries: list[Entry] = []
        revision = 0
        more = True
        while more:
            body = gateway.range_request(start, end, PAGE, revision)
            answer = await self._client.query(gateway.RANGE, body, RangeAnswer, deadline=deadline)
            revision = revision or answer.header.revision
            entries += gateway.entries(answer, self._prefix)
            more = answer.more and bool(answer.kvs)
            start = answer.kvs[-1].key + b"\0" if more else start
        return Snapshot(tuple(entries), revision)

    async def _watched_snapshot(self, prefix: str) -> Snapshot:
        """Return a snapshot after which all changes are received; wait until the cluster answers."""
        while True:
            self._check_open()
            await self._feed.wait()
            try:
                return await self.snapshot(prefix)
            except Error:
                self._check_open()
                await asyncio.sleep(random.uniform(0, _SNAPSHOT_DELAY))  # noqa: S311 - not all hosts at once

    async def _query(
        self, path: str, body: bytes, kind: type[T], effect: Effect = Effect.NONE, deadline: float | None = None
    ) -> T:
        try:
            return await self._client.query(path, body, kind, effect, deadline)
        except StatusRefused as refused:
            raise refused.error from None

    async def _try_to_write(self) -> None:
        """Send a transaction that is never applied: etcd looks for the right to write before it compares.

        Raises:
            Error: code ``store_denied``: the right is missing.
        """
        with suppress(ConditionFailed):
            await self.transact([Delete(_NO_KEY)], [Present(_NO_KEY)])

    def _restored(self) -> None:
        self._feed.restart()

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()
