"""How the members are, found out before a request needs to know: lost, full, damaged, or no right to write there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from sandnet.errors import Error
from sandnet.escaping import printable
from sandnet.stores.etcd import gateway
from sandnet.stores.etcd.etcd_client import EtcdClient
from sandnet.stores.etcd.gateway import MemberStatus
from sandnet.stores.etcd.member import Member

INTERVAL: Final = 10.0
"""Seconds from one round through all members to the next."""
SOON: Final = 2.0
"""The same while something is wrong."""
DEADLINE: Final = 1.0
"""Seconds for the answer of one member."""
FAILED_TWICE: Final = 2
"""Rounds in a row without an answer after which a member is named: one is lost by an election."""
RIGHTS: Final = 60.0
"""Seconds from one look for the right to write to the next; once it is missing, each round looks."""
_WAY_OUT: Final = "compact and defragment etcd or raise its quota, then disarm its alarm"


class MemberChecks:
    """Asks each member now and then.

    Args:
        client: of the cluster.
        try_to_write: finds out whether we may write, without writing; raises an ``Error`` if not.
    """

    def __init__(self, client: EtcdClient, try_to_write: Callable[[], Awaitable[None]]) -> None:
        self._client, self._try_to_write = client, try_to_write
        self._silent: dict[str, int] = {}
        """Rounds in a row without an answer, by member."""
        self._reasons: dict[str, str] = {}
        self._alarms: tuple[str, ...] = ()
        self._refusal = ""
        """Why we may not write."""
        self._rights_seen = 0.0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def problems(self) -> Sequence[str]:
        """What is wrong with the members, as texts for health."""
        silent = [name for name, rounds in self._silent.items() if rounds >= FAILED_TWICE]
        members = [f"member {name} of the shared store is lost: {self._reasons[name]}" for name in silent]
        return [*self._alarms, *members, *([self._refusal] if self._refusal else [])]

    def start(self) -> None:
        """Begin, unless that was done."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def note_refusal(self, failure: Error) -> None:
        """Look at once: a write was refused."""
        if failure.code == "store_denied":
            self._refusal = failure.reason
        if failure.code in ("store_denied", "store_full"):
            self._wake.set()

    async def close(self) -> None:
        """Stop."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await self._look()
            is_well = not (self.problems or any(self._silent.values()))
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL if is_well else SOON):
                    await self._wake.wait()

    async def _look(self) -> None:
        found = await asyncio.gather(*map(self._ask, self._client.members))
        self._alarms = tuple(dict.fromkeys(alarm for alarms in found for alarm in alarms))
        if self._refusal or time.monotonic() - self._rights_seen > RIGHTS:
            await self._look_for_rights()

    async def _ask(self, member: Member) -> Sequence[str]:
        """Ask one member; return its alarms, which are those of the whole cluster."""
        try:
            status = await self._client.query_member(member, gateway.STATUS, b"{}", MemberStatus, DEADLINE)
        except Error as failure:
            self._silent[member.name] = self._silent.get(member.name, 0) + 1
            self._reasons[member.name] = failure.message
            return ()
        self._silent[member.name] = 0
        return [_alarm(error) for error in status.errors]

    async def _look_for_rights(self) -> None:
        try:
            await self._try_to_write()
        except Error as failure:
            if failure.code == "store_denied":
                self._refusal = failure.reason
            return  # whatever else it is, requests fail for it too
        self._refusal, self._rights_seen = "", time.monotonic()


def _alarm(error: str) -> str:
    """Return the text for an error that a member reports: ``memberID:1 alarm:NOSPACE``, or a sentence of its own."""
    if "NOSPACE" in error:
        return f"the shared store is full: only deletions are possible; {_WAY_OUT}"
    if "CORRUPT" in error:
        return "a member of the shared store has other data than the rest: it accepts no changes; replace that member"
    return f"the shared store reports: {printable(error.strip())}"
