"""The cluster as one partner: fail-over between its members, deadlines, users, and outcomes that stay unknown."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, TypeVar

from sandnet.errors import Error, Kind
from sandnet.stores.etcd import gateway
from sandnet.stores.etcd.gateway import Status, TokenAnswer, decoded
from sandnet.stores.etcd.location import EtcdLocation
from sandnet.stores.etcd.member import FOR_THE_ANSWER, Member, NoAnswer, NotSent
from sandnet.stores.etcd.member_connection import HttpAnswer, MemberConnection
from sandnet.stores.etcd.statuses import Meaning, error_of, meaning, status_of, unwrapped
from sandnet.stores.etcd.tls_files import UNAUTHORIZED, TlsFiles
from sandnet.stores.shared import DEADLINE, outcome_unknown, store_unavailable

T = TypeVar("T")

ATTEMPT: Final = 0.5
"""Seconds until a request that may be sent twice is sent to the next member."""
PAUSE: Final = 0.05
"""Seconds between two rounds through all members, each of which failed at once."""
_LONGEST_PASSWORD: Final = 1024


class Effect(Enum):
    """What it means to send a request twice."""

    ONCE = auto()
    """Perhaps harm: an answer that is lost leaves its outcome unknown."""
    REPEATABLE = auto()
    """No harm."""
    NONE = auto()
    """No harm: it only reads."""


class StatusRefused(Exception):  # noqa: N818 - the caller decides what it means
    """The cluster refused the request for a reason that its sender can handle: see :class:`Meaning`."""

    def __init__(self, meaning: Meaning, error: Error) -> None:
        super().__init__(error.message)
        self.meaning, self.error = meaning, error


class _Declined(Exception):  # noqa: N818 - the next member is asked
    """One member did not carry the request out.

    Attributes:
        error: what to raise if no other member does.
        unclear: why it may have been applied all the same; empty: it was not.
    """

    def __init__(self, error: Error, unclear: str = "") -> None:
        super().__init__(error.message)
        self.error, self.unclear = error, unclear


class EtcdClient:
    """The members, of which one is asked until it fails.

    Args:
        location: of the cluster, with our credentials.
        deadline: seconds for a request that has none of its own.
        on_restore: called when an answer is older than an earlier one: the cluster was restored from a backup.

    Attributes:
        last_contact: time (``time.monotonic``) of the last answer.
        problem: why the last request failed; empty: it did not.
    """

    def __init__(
        self, location: EtcdLocation, deadline: float = DEADLINE, on_restore: Callable[[], None] = lambda: None
    ) -> None:
        tls = TlsFiles(location.credentials) if location.tls else None
        self.last_contact = time.monotonic()
        self.problem = ""
        self._members = [Member(host, port, tls) for host, port in location.members]
        self._current = random.randrange(len(self._members))  # noqa: S311 - so that not all hosts ask the same one
        self._credentials = location.credentials
        self._deadline = deadline
        self._on_restore = on_restore
        self._revision = 0
        self._token = ""
        self._renewing = asyncio.Lock()

    @property
    def members(self) -> Sequence[Member]:
        """All members that the location names."""
        return self._members

    @property
    def member(self) -> Member:
        """The member that is asked next."""
        return self._members[self._current]

    def move_on(self, member: Member) -> None:
        """Ask the next member from now on, if this one is still being asked."""
        if member is self.member:
            self._current = (self._current + 1) % len(self._members)

    async def query(
        self, path: str, body: bytes, kind: type[T], effect: Effect = Effect.NONE, deadline: float | None = None
    ) -> T:
        """Send a request to members until one answers, and return the answer.

        Raises:
            StatusRefused: for a reason that its sender can handle.
            OutcomeUnknown: a write may have been applied.
            Error: it was not carried out.
        """
        floor = self._revision
        answer = await self._call(path, body, effect, deadline)
        return self._read(answer, kind, floor, effect)

    async def query_member(self, member: Member, path: str, body: bytes, kind: type[T], limit: float) -> T:
        """Send a read to one member, once.

        Raises:
            Error: it did not answer.
        """
        floor = self._revision
        try:
            answer = await self._attempt(member, path, body, time.monotonic() + limit, limit, urgent=True)
        except (_Declined, StatusRefused) as failure:
            raise failure.error from failure
        return self._read(answer, kind, floor, Effect.NONE)

    async def open_stream(self, member: Member, path: str, body: bytes) -> MemberConnection:
        """Begin a stream of one member.

        Raises:
            Error: it was not reached.
        """
        try:
            return await member.stream(path, body, self._token)
        except NotSent as failure:
            raise store_unavailable(str(failure)) from failure

    def close(self) -> None:
        """Close all idle connections."""
        for member in self._members:
            member.close()

    async def _call(self, path: str, body: bytes, effect: Effect, deadline: float | None) -> HttpAnswer:
        limit = self._deadline if deadline is None else deadline
        end = time.monotonic() + limit
        least = limit * FOR_THE_ANSWER if effect is Effect.ONCE else 0
        failure, unclear = store_unavailable("no time was left to ask"), ""
        attempts = unauthorized = 0
        while (left := end - time.monotonic()) > least and unauthorized < len(self._members):
            member = self.member
            try:
                longest = left if effect is Effect.ONCE else min(left, ATTEMPT)
                answer = await self._attempt(member, path, body, end, longest, urgent=path == gateway.KEEP_ALIVE)
            except _Declined as reason:
                failure, unclear = reason.error, unclear or reason.unclear
                unauthorized = unauthorized + 1 if failure.code == UNAUTHORIZED else 0
            except (Error, StatusRefused):
                if unclear and effect is not Effect.NONE:
                    raise outcome_unknown(unclear) from None
                raise
            else:
                self.problem = ""
                return answer
            self.move_on(member)
            if unclear and effect is Effect.ONCE:
                break
            attempts += 1
            if attempts % len(self._members) == 0:
                await asyncio.sleep(min(PAUSE, max(0.0, end - time.monotonic())))
        self.problem = failure.reason
        raise outcome_unknown(unclear) if unclear and effect is not Effect.NONE else failure

    async def _attempt(
        self, member: Member, path: str, body: bytes, end: float, limit: float, *, urgent: bool = False
    ) -> HttpAnswer:
        """Ask one member, twice if the user's token has expired.

        Raises:
            _Declined: another member may answer.
            StatusRefused: for a reason that its sender can handle.
            Error: refused for good.
        """
        token = self._token
        status, means = Status(), Meaning.REFUSED
        for is_last in (False, True):
            answer = await self._exchange(member, path, body, self._token, limit, urgent=urgent)
            if answer.status == 200:
                return answer
            status = status_of(answer)
            means = meaning(status)
            if means is not Meaning.TOKEN_REFUSED or not self._credentials.user or is_last:
                break
            await self._renew(member, token, end)
            limit = min(limit, max(0.0, end - time.monotonic()))
        raise self._refusal(status, means, member)

    def _refusal(self, status: Status, means: Meaning, member: Member) -> Exception:
        error = error_of(status, member.name)
        if means in (Meaning.LEASE_ENDED, Meaning.COMPACTED):
            return StatusRefused(means, error)
        if means in (Meaning.NOT_APPLIED, Meaning.UNCLEAR):
            return _Declined(error, error.message if means is Meaning.UNCLEAR else "")
        self.problem = error.reason
        return error

    async def _exchange(
        self, member: Member, path: str, body: bytes, token: str, limit: float, *, urgent: bool = True
    ) -> HttpAnswer:
        try:
            answer = await member.exchange(path, body, token, limit, urgent=urgent)
        except NotSent as failure:
            raise _Declined(_unreached(failure)) from failure
        except NoAnswer as failure:
            raise _Declined(store_unavailable(str(failure)), str(failure)) from failure
        self.last_contact = time.monotonic()
        return unwrapped(answer) if path == gateway.KEEP_ALIVE else answer

    async def _renew(self, member: Member, stale: str, end: float) -> None:
        """Get a token, unless another request has got one since."""
        async with self._renewing:
            if self._token != stale:
                return
            password = await asyncio.to_thread(_password, self._credentials.password_file)
            body = gateway.authentication_request(self._credentials.user, password)
            try:
                answer = await self._exchange(member, gateway.AUTHENTICATE, body, "", max(0.0, end - time.monotonic()))
            except _Declined as failure:  # the request that needs the token was not sent
                raise _Declined(failure.error) from failure
            if answer.status == 200:
                self._token = _token_of(answer, member)
                return
            status = status_of(answer)
            if meaning(status) is not Meaning.NO_AUTHENTICATION:
                refusal = self._refusal(status, meaning(status), member)
                raise _Declined(refusal.error) if isinstance(refusal, _Declined) else refusal
            self._token = ""

    def _read(self, answer: HttpAnswer, kind: type[T], floor: int, effect: Effect) -> T:
        try:
            read = decoded(answer.body, kind)
        except ValueError as failure:
            reason = f"its answer cannot be read: {failure}"
            raise (store_unavailable if effect is Effect.NONE else outcome_unknown)(reason) from failure
        header = getattr(read, "header", None)
        if isinstance(header, gateway.Header):
            self._note(header.revision, floor)
        return read

    def _note(self, revision: int, floor: int) -> None:
        """Note a revision. None that is asked for later can be lower, unless the cluster was restored."""
        if revision >= floor:
            self._revision = max(self._revision, revision)
        elif self._revision >= floor:  # else it was found by another request already
            self._revision = revision
            self._on_restore()


def _unreached(reason: NotSent) -> Error:
    if reason.code == UNAUTHORIZED:
        message = f"the shared store's or our own certificate is refused: {reason}"
        return Error(Kind.UNAVAILABLE, message, "see store_ca, store_cert and store_key", UNAUTHORIZED)
    return store_unavailable(str(reason))


def _token_of(answer: HttpAnswer, member: Member) -> str:
    try:
        token = decoded(answer.body, TokenAnswer).token
    except ValueError:
        token = ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise store_unavailable(f"{member.name} sent an unusable token")
    return token


def _password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(_LONGEST_PASSWORD).rstrip("\r\n")
    except (OSError, ValueError) as failure:
        message = f"cannot read store_password_file {path}: {failure}"
        raise Error(Kind.UNAVAILABLE, message, code=UNAUTHORIZED) from failure
