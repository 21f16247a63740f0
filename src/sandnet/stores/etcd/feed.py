"""The watch of all our keys, from which all watches in this process are served."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final, NoReturn

from sandnet.errors import Error
from sandnet.escaping import printable
from sandnet.stores.etcd import gateway
from sandnet.stores.etcd.etcd_client import EtcdClient
from sandnet.stores.etcd.gateway import RangeAnswer, StreamAnswer, WatchAnswer, decoded
from sandnet.stores.etcd.member import Member
from sandnet.stores.etcd.member_connection import MemberConnection
from sandnet.stores.etcd.statuses import error_of
from sandnet.stores.watchers import Watchers

PROBE_INTERVAL: Final = 2.0
"""Seconds without an event until the member is asked whether it still has the cluster's majority."""
PROBE_DEADLINE: Final = 1.0
PROBES: Final = 2
"""Unanswered ones in a row after which the next member is watched. One is lost by an election."""
CREATION: Final = 1.0
"""Seconds until a watch is confirmed."""
STABLE: Final = 5.0
"""Seconds after which a watch that ends is begun again without delay."""
_DELAYS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper limits of the seconds between attempts; the last repeats."""


class _Ended(Exception):  # noqa: N818 - the watch begins again
    """The member ended the watch; it is as good as the others."""


class Feed:
    """One watch of etcd after the other: when one ends, for whatever reason, the watchers begin with a snapshot again.

    Args:
        client: of the cluster.
        prefix: of the keys.
        watchers: get the changes.

    Attributes:
        problem: why nothing is watched now, as text; empty: something is, or nothing is to be.
    """

    def __init__(self, client: EtcdClient, prefix: bytes, watchers: Watchers) -> None:
        self.problem = ""
        self._client, self._prefix, self._watchers = client, prefix, watchers
        self._task: asyncio.Task[None] | None = None
        self._connection: MemberConnection | None = None
        self._running = asyncio.Event()

    async def wait(self) -> None:
        """Wait until changes are received: all those after what is read from then on are published."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await self._running.wait()

    def restart(self) -> None:
        """Begin the watch again: its revision may not be one of the cluster any more."""
        if self._connection:
            self._connection.close()

    async def close(self) -> None:
        """End the watch, and let those that wait for it go on."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._running.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            member, started = self._client.member, time.monotonic()
            try:
                await self._follow(member)
            except _Ended as reason:
                self.problem = f"the watch of the shared store was ended by {member.name}: {reason}"
            except (Error, OSError, TimeoutError, ValueError) as failure:
                self.problem = f"{member.name} is not watched: {failure}"
                self._client.move_on(member)
            self._running.clear()
            self._watchers.lose()
            failures = 0 if time.monotonic() - started > STABLE else failures + 1
            limit = _DELAYS[min(failures, len(_DELAYS) - 1)]
            await asyncio.sleep(random.uniform(limit / 2, limit))  # noqa: S311 - many hosts have lost the same member

    async def _follow(self, member: Member) -> NoReturn:
        """Watch a member until the watch ends.

        Raises:
            _Ended, Error, OSError, TimeoutError, ValueError: why it has.
        """
        revision = await self._probe(member)
        body = gateway.watch_request(self._prefix, revision + 1)
        async with asyncio.timeout(CREATION):
            self._connection = await self._client.open_stream(member, gateway.WATCH, body)
        try:
            async with asyncio.timeout(CREATION):
                self._receive(await self._connection.line(), member)
            self.problem = ""
            self._running.set()
            while True:
                await self._next(self._connection, member)
        finally:
            self._connection.close()

    async def _next(self, connection: MemberConnection, member: Member) -> None:
        """Publish the next message; while there is none, see whether the member has the majority of the cluster."""
        try:
            async with asyncio.timeout(PROBE_INTERVAL):
                line = await connection.line()
        except TimeoutError:
            await self._probe(member, PROBES)
        else:
            self._receive(line, member)

    def _receive(self, line: bytes, member: Member) -> None:
        """Publish the changes of one message.

        Raises:
            _Ended: the watch has ended.
        """
        self._client.last_contact = time.monotonic()
        message = decoded(line, StreamAnswer)
        if status := message.status:
            raise error_of(status, member.name)
        answer = decoded(message.result, WatchAnswer)
        for changed in answer.changes(self._prefix):
            self._watchers.publish(changed)
        if answer.canceled:
            compacted = f"revision {answer.compact_revision} was compacted" if answer.compact_revision else ""
            raise _Ended(printable(answer.cancel_reason) or compacted or "without a reason")

    async def _probe(self, member: Member, attempts: int = 1) -> int:
        """Return the member's revision, which the majority confirms."""
        body = gateway.range_request(self._prefix, limit=1)
        for attempt in range(1, attempts + 1):
            try:
                answer = await self._client.query_member(member, gateway.RANGE, body, RangeAnswer, PROBE_DEADLINE)
            except Error:
                if attempt == attempts:
                    raise
            else:
                return answer.header.revision
        raise AssertionError("no attempts")
