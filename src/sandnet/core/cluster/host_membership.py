"""This host among the others: its lease, its fencing number, and the transactions that it sends under both.

A transaction compares the host's fencing number. When an answer does not come, the host raises that number: what it
sent before cannot be applied any more, so what it reads then is the outcome.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from sandnet.core.cluster.machine_identity import refuse_other_machine
from sandnet.core.cluster.record_format import FORMAT, joining, raising
from sandnet.core.cluster.shared_values import (
    ALIVE,
    FENCES,
    GENERATION,
    HOSTS,
    Alive,
    Fence,
    HostRecord,
    decode,
    encode,
)
from sandnet.core.cluster.transaction_outcome import applied_at, holds
from sandnet.core.cluster.view import ClusterView
from sandnet.core.state.shared_writer import CHANGED_ELSEWHERE
from sandnet.errors import Error, Kind
from sandnet.stores.base import Change, Delete, Entry, Put
from sandnet.stores.shared import (
    Absent,
    Condition,
    ConditionFailed,
    HasValue,
    LeaseEnded,
    OutcomeUnknown,
    Present,
    SharedStore,
)

_log = logging.getLogger(__name__)

LEASE: Final = 15
"""Seconds from the last sign of life of a host until nothing of it counts any more."""
MARGIN: Final = 2.0
"""Seconds before the end of the lease, by the host's own clock, from which it claims nothing more."""
ATTEMPTS: Final = 4
"""How often a transaction is sent again because the host's own fencing number was raised in between."""
RETRY: Final = (0.2, 2.0)
"""Seconds from one attempt to join the cluster to the next: the first, and the longest."""


class HostMembership:
    """This host's membership. It is not a member before :meth:`start`, nor while the store cannot be reached.

    Args:
        store: the shared store.
        view: what the store holds; it gets the host's own transactions.
        host: the record of this host.
        describe: completes its record by how the other hosts reach it now, given what the store has of it.
        take_over: whether to replace another daemon of this name.
    """

    def __init__(
        self,
        store: SharedStore,
        view: ClusterView,
        host: HostRecord,
        describe: Callable[[HostRecord, HostRecord | None], Awaitable[HostRecord]],
        *,
        take_over: bool = False,
    ) -> None:
        self._store, self._view = store, view
        self.host = host
        self._describe = describe
        self._take_over = take_over
        self._start = secrets.token_hex(8)
        self._generation = b""
        self._fence: bytes | None = None
        """The value of the host's fencing key; ``None``: not a member yet."""
        self._alive: bytes = b""
        self.number = 0
        """Number of the host's lease; 0: it has none."""
        self._lease = 0
        self._lasts_until = 0.0
        """End of the lease by ``CLOCK_BOOTTIME``."""
        self._ended = 0
        """The last lease that ended."""
        self._fenced_by = ""
        """Id of the start of the daemon that has taken over this host's name."""
        self._fencing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._entered = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._problem = ""
        self._refusal: Error | None = None
        """Why the store has refused the latest attempt to join, or to renew the lease."""
        self._on_joined: Callable[[], Awaitable[None]] | None = None

    @property
    def name(self) -> str:
        """The host's name."""
        return self.host.name

    @property
    def joined(self) -> bool:
        """Whether the host is a member, so that it can send transactions."""
        return self._fence is not None

    @property
    def silence(self) -> float:
        """Seconds since the store has answered last."""
        return time.monotonic() - self._store.last_contact

    @property
    def lease_seconds(self) -> float:
        """Seconds that the lease of this host lasts at least; 0: it has none."""
        return max(0.0, self._remaining()) if self.number else 0.0

    def problems(self) -> list[str]:
        """Return the problems of the membership, as texts for health."""
        found = [self._problem] if self._problem else []
        if self.joined and self.host.underlay is None:
            found.append("this host has no address at which other hosts reach its sandboxes: set --underlay")
        if (silence := self.silence) > LEASE / 3 + 1:
            found.append(
                f"the shared store has not answered for {silence:.0f} s; records of other hosts are as they were then"
            )
        if self._entered.is_set() and not self.lease_seconds:
            found.append(
                "the lease of this host has ended: other hosts do not count its containers until it is renewed"
            )
        return found

    def start(self, joined: Callable[[], Awaitable[None]]) -> None:
        """Join, and keep the lease alive until :meth:`close`.

        Args:
            joined: called each time the host has become a member: attachments may have to be claimed again.
        """
        self._on_joined = joined
        self._loop = asyncio.create_task(self._keep())

    def check(self) -> None:
        """Renew the lease at once: it has ended, or the store has a new one."""
        self._wake.set()

    async def until_joined(self) -> None:
        """Wait until the host is a member."""
        await self._entered.wait()

    async def close(self) -> None:
        """Stop keeping the lease alive. It lasts on: a daemon that is started again keeps it."""
        if self._loop:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    async def leave(self) -> None:
        """End the lease, while no daemon runs: nothing of this host counts any more. Its number stays in records.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        keys = f"{HOSTS}{self.name}", f"{ALIVE}{self.name}"
        host, alive = map({each.key: each for each in (await self._store.read(keys)).entries}.get, keys)
        if host and alive and decode(host.value, HostRecord).machine == self.host.machine:
            await self._store.revoke(decode(alive.value, Alive).lease)

    # Transactions.

    async def transact(
        self, changes: Sequence[Change], conditions: Sequence[Condition], *, claims: bool = False
    ) -> int:
        """Apply a transaction of this host, and return its revision; the view has it when this returns.

        Args:
            changes: what to write. Its first put, if any, is unlike what any other transaction writes.
            conditions: what must be true besides the host's fencing number.
            claims: whether it holds only while the host has its lease.

        Raises:
            ConditionFailed: one of ``conditions`` did not hold.
            Error: ``UNAVAILABLE``; with the code ``outcome_unknown`` it may have been applied.
        """
        for _ in range(ATTEMPTS):
            if self._fence is None:
                raise self._not_joined()
            if claims and self._remaining() < MARGIN:
                raise self._expired()
            fence = self._fence
            own = [HasValue(GENERATION, self._generation), HasValue(f"{FENCES}{self.name}", fence)]
            if claims:
                own.append(HasValue(f"{ALIVE}{self.name}", self._alive))
            try:
                revision = await self._store.transact(changes, [*own, *conditions])
            except ConditionFailed as refused:
                if any(not holds(condition, refused) for condition in conditions):
                    raise
                self._explain(refused, claims=claims)
                continue
            except OutcomeUnknown as failure:
                revision = await self._outcome(changes, fence, failure)
            self._apply(changes, revision)
            return revision
        raise Error(Kind.UNAVAILABLE, "the shared store refused each of several attempts", code=CHANGED_ELSEWHERE)

    def _apply(self, changes: Sequence[Change], revision: int) -> None:
        puts = [(change.key, change.value) for change in changes if isinstance(change, Put)]
        self._view.apply_own(puts, [change.key for change in changes if isinstance(change, Delete)], revision)

    def _explain(self, refused: ConditionFailed, *, claims: bool) -> None:
        """Find out which of the host's own conditions did not hold; return if the transaction can be sent again.

        Raises:
            Error: ``UNAVAILABLE``.
        """
        generation, fence = refused.at(GENERATION), refused.at(f"{FENCES}{self.name}")
        if generation is None or generation.value != self._generation:
            self._fence = None
            self._wake.set()
            raise Error(
                Kind.UNAVAILABLE,
                "the shared store was restored or replaced",
                "this host joins it again; repeat the request",
                "store_restored",
            )
        if fence is None or decode(fence.value, Fence).start != self._start:
            self._fence, self._fenced_by = None, decode(fence.value, Fence).start if fence else ""
            self._problem = f"another daemon has taken over the name {self.name}, or the host was removed"
            raise Error(Kind.UNAVAILABLE, self._problem, "give each host a name of its own: --host-name", "host_fenced")
        self._fence = fence.value
        alive = refused.at(f"{ALIVE}{self.name}")
        if claims and (alive is None or alive.value != self._alive):
            self.number, self._lasts_until = 0, 0.0
            self._wake.set()
            raise self._expired()

    async def _outcome(self, changes: Sequence[Change], fence: bytes, failure: OutcomeUnknown) -> int:
        """Make it impossible that the transaction is applied later; return its revision if it was applied.

        Args:
            changes: those of the transaction.
            fence: the fencing key's value under which it was sent.
            failure: why its outcome is unknown.

        Raises:
            Error: ``UNAVAILABLE``: it was not applied; or ``outcome_unknown``: that cannot be found out now.
        """
        try:
            await self._raise_fence(fence)
            found = await self._store.read([change.key for change in changes])
        except Error:
            raise failure from None
        if revision := applied_at(changes, found):
            return revision
        message = "the shared store did not answer, and did not apply the change"
        raise Error(Kind.UNAVAILABLE, message, "repeat the request", "store_unavailable") from failure

    async def _raise_fence(self, before: bytes) -> None:
        """Write the number after ``before``: whatever was sent under that cannot be applied any more."""
        async with self._fencing:
            if self._fence != before:
                return  # another request has raised it
            key, fence = f"{FENCES}{self.name}", decode(before, Fence)
            after = encode(Fence(number=fence.number + 1, start=self._start))
            try:
                await self._store.transact([Put(key, after)], [HasValue(key, before)])
            except ConditionFailed as refused:
                self._explain(refused, claims=False)  # an earlier attempt was applied after all
            else:
                self._fence = after

    def _not_joined(self) -> Error:
        if self._refusal and self._refusal.kind is Kind.UNAVAILABLE:
            return Error(Kind.UNAVAILABLE, self._refusal.message, self._refusal.hint, self._refusal.code)
        hint = "networks and sandboxes go on; repeat the request when the store can be reached"
        reason = self._problem or "this host has not reached the shared store yet"
        return Error(Kind.UNAVAILABLE, reason, hint, "store_unavailable")

    def _expired(self) -> Error:
        message = "the lease of this host in the shared store has ended, or is about to"
        return Error(Kind.UNAVAILABLE, message, "it gets a new one; repeat the request", "lease_ended")

    def _remaining(self) -> float:
        return self._lasts_until - _now()

    # The lease.

    async def _keep(self) -> None:
        """Join and claim again, then renew the lease at a third of its time."""
        delay = RETRY[0]
        while True:
            try:
                is_member = self._fence is not None and self.number
                if not is_member:
                    await self._enter()
                    delay = RETRY[0]
                    if self._on_joined:  # with a kept lease too: nothing was claimed while it was no member
                        await self._on_joined()
                await self._renew()
                if is_member:
                    await self._publish_host()  # after the renewal: a full store refuses this, and renews
                self._problem, self._refusal = "", None
                await self._pause(LEASE / 3)
            except LeaseEnded as ended:
                self.number, self._ended = 0, ended.lease
            except Exception as failure:  # whatever the store holds: without this loop the lease would end
                expected = isinstance(failure, Error | ConditionFailed)
                _log.log(logging.INFO if expected else logging.ERROR, "the shared store: %s", failure)
                self._refusal = failure if isinstance(failure, Error) else None
                self._problem = self._refusal.reason if self._refusal else str(failure)
                await self._pause(delay)
                delay = min(delay * 2, RETRY[1])

    async def _publish_host(self) -> None:
        """Look how the other hosts reach this one, and write it if the store has something else."""
        await self._complete_host()
        if self._view.revision and self._view.host(self.name) != self.host:
            await self.transact([Put(f"{HOSTS}{self.name}", encode(self.host))], [])
        if raised := raising(self._view, self.host.formats):
            with suppress(ConditionFailed):  # a host has joined just then
                await self.transact(*raised)

    async def _complete_host(self) -> None:
        self.host = await self._describe(self.host, self._view.host(self.name))

    async def _pause(self, seconds: float) -> None:
        """Wait, or until something is to be done at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _renew(self) -> None:
        sent = _now()
        self._lasts_until = sent + await self._store.keep_alive(self._lease)

    async def _enter(self) -> None:
        """Become a member under a new fencing number.

        The lease of an earlier daemon is kept if it lasts: its attachments count on. It may also be from an attempt of
        this daemon whose answer did not come.
        """
        await self._complete_host()
        keys = {kind: f"{kind}{self.name}" for kind in (HOSTS, FENCES, ALIVE)}
        found = {entry.key: entry for entry in (await self._store.read([GENERATION, FORMAT, *keys.values()])).entries}
        alive, fence = found.get(keys[ALIVE]), found.get(keys[FENCES])
        known = decode(fence.value, Fence) if fence else Fence(number=0, start="")
        self._refuse_other(found.get(keys[HOSTS]), alive, known)
        format_ = joining(found.get(FORMAT), self.host, found.get(keys[HOSTS]), is_new=GENERATION not in found)
        number = known.number + 1
        own = encode(Fence(number=number, start=self._start))
        generation = found[GENERATION].value if GENERATION in found else secrets.token_hex(8).encode()
        changes: list[Change] = [Put(keys[FENCES], own), Put(keys[HOSTS], encode(self.host)), *format_.changes]
        conditions: list[Condition] = [Present(keys[FENCES], fence.revision) if fence else Absent(keys[FENCES])]
        conditions.extend(format_.conditions)
        conditions.append(HasValue(GENERATION, generation) if GENERATION in found else Absent(GENERATION))
        changes += [] if GENERATION in found else [Put(GENERATION, generation)]
        conditions.append(HasValue(keys[ALIVE], alive.value) if alive else Absent(keys[ALIVE]))
        lease = decode(alive.value, Alive) if alive else None
        kept = lease is not None and lease.lease != self._ended
        if lease is None or not kept:
            lease = Alive(number=number, lease=await self._store.grant(LEASE))
            changes.append(Put(keys[ALIVE], encode(lease)))
        leases = {} if kept else {keys[ALIVE]: lease.lease}
        try:
            await self._store.transact(changes, conditions, leases=leases)
        except Error:
            if kept:  # a store that is full, or read-only, renews: this host counts on until it can join
                await self._store.keep_alive(lease.lease)
            raise
        self._generation, self._fence = generation, own
        self._alive, self.number, self._lease = encode(lease), lease.number, lease.lease
        self._lasts_until = _now() + LEASE / 3  # until the first renewal
        self._entered.set()

    def _refuse_other(self, host: Entry | None, alive: Entry | None, fence: Fence) -> None:
        """Refuse a name that another machine's daemon has.

        Raises:
            Error: ``CONFLICT``.
        """
        if host is None or alive is None or fence.start == self._start:
            return
        fenced = fence.start == self._fenced_by  # two daemons must not replace each other for ever
        if fenced or not self._take_over:
            refuse_other_machine(self.host, host, fenced=fenced)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
