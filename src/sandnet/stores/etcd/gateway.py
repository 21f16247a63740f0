"""The messages of etcd's JSON gateway: requests as bytes, answers as records.

The fields are those of ``rpc.proto`` and ``kv.proto`` of etcd 3.4 in the JSON mapping of protobuf: bytes in base64,
numbers of 64 bits as text, absent fields at their default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from sandnet.stores.base import Change, Changed, Entry, Put
from sandnet.stores.shared import (
    SHOWN_OF_A_RANGE,
    SHOWN_OF_CHANGES,
    Absent,
    Condition,
    EmptyRange,
    HasValue,
    Present,
    UnchangedRange,
)

T = TypeVar("T")

RANGE: Final = "/v3/kv/range"
TXN: Final = "/v3/kv/txn"
GRANT: Final = "/v3/lease/grant"
KEEP_ALIVE: Final = "/v3/lease/keepalive"
REVOKE: Final = "/v3/lease/revoke"
WATCH: Final = "/v3/watch"
AUTHENTICATE: Final = "/v3/auth/authenticate"
STATUS: Final = "/v3/maintenance/status"

# -- requests ---------------------------------------------------------------------------------------------------------


class _Request(msgspec.Struct, omit_defaults=True):
    pass


class RangeRequest(_Request):
    """A read of one key, or of a range."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    min_mod_revision: int = 0


class PutRequest(_Request):
    """A write."""

    key: bytes
    value: bytes
    lease: int = 0


class DeleteRequest(_Request):
    """A deletion."""

    key: bytes


class Operation(_Request):
    """One operation of a transaction: one of the fields is set."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRequest | None = None


class Comparison(_Request):
    """A comparison of one key, or of each one of a range; of the last three fields that of ``target`` is set."""

    key: bytes
    target: str
    range_end: bytes = b""
    result: str = "EQUAL"
    create_revision: int | None = None
    mod_revision: int | None = None
    value: bytes | None = None


class TxnRequest(_Request):
    """A transaction."""

    compare: list[Comparison] = []
    success: list[Operation] = []
    failure: list[Operation] = []


class _Lease(_Request):
    ID: int = 0
    TTL: int = 0


class _WatchCreation(_Request):
    key: bytes
    range_end: bytes
    start_revision: int


class _WatchRequest(_Request):
    create_request: _WatchCreation


class _Authentication(_Request):
    name: str
    password: str


def end_of(prefix: bytes) -> bytes:
    """Return the first key after all those that begin with a prefix; it ends with a byte of UTF-8, never 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def range_request(key: bytes, range_end: bytes = b"", limit: int = 0, revision: int = 0) -> bytes:
    """Return the body of a read."""
    return msgspec.json.encode(RangeRequest(key, range_end, limit, revision))


def reads_request(keys: Sequence[bytes], revision: int) -> bytes:
    """Return the body of a transaction that reads some keys."""
    reads = [Operation(request_range=RangeRequest(key, revision=revision)) for key in keys]
    return msgspec.json.encode(TxnRequest(success=reads))


def transaction_request(
    prefix: bytes, changes: Sequence[Change], conditions: Sequence[Condition], leases: Mapping[str, int]
) -> bytes:
    """Return the body of a transaction; when it is refused, it reads the keys of its conditions."""
    return msgspec.json.encode(
        TxnRequest(
            compare=[_comparison(prefix, condition) for condition in conditions],
            success=[_operation(prefix, change, leases) for change in changes],
            failure=[Operation(request_range=_shown(prefix, condition)) for condition in conditions],
        )
    )


def _comparison(prefix: bytes, condition: Condition) -> Comparison:
    key = prefix + condition[0].encode()
    match condition:
        case EmptyRange():  # a comparison of an empty range is one of a key with the revision 0
            return Comparison(key, "CREATE", end_of(key), create_revision=0)
        case UnchangedRange(_, revision):  # of an empty range this holds, too
            return Comparison(key, "MOD", end_of(key), "LESS", mod_revision=revision + 1)
        case Absent():
            return Comparison(key, "CREATE", create_revision=0)
        case HasValue(_, value):
            return Comparison(key, "VALUE", value=value)
        case Present(_, None):
            return Comparison(key, "CREATE", result="GREATER", create_revision=0)
        case Present(_, revision):
            return Comparison(key, "MOD", mod_revision=revision)


def _operation(prefix: bytes, change: Change, leases: Mapping[str, int]) -> Operation:
    key = prefix + change.key.encode()
    if isinstance(change, Put):
        return Operation(request_put=PutRequest(key, change.value, leases.get(change.key, 0)))
    return Operation(request_delete_range=DeleteRequest(key))


def _shown(prefix: bytes, condition: Condition) -> RangeRequest:
    key = prefix + condition[0].encode()
    if isinstance(condition, EmptyRange):
        return RangeRequest(key, end_of(key), SHOWN_OF_A_RANGE)
    if isinstance(condition, UnchangedRange):
        return RangeRequest(key, end_of(key), SHOWN_OF_CHANGES, min_mod_revision=condition.revision + 1)
    return RangeRequest(key)


def grant_request(ttl: int) -> bytes:
    """Return the body of a request for a lease."""
    return msgspec.json.encode(_Lease(TTL=ttl))


def lease_request(lease: int) -> bytes:
    """Return the body of the renewal or the end of a lease."""
    return msgspec.json.encode(_Lease(ID=lease))


def watch_request(prefix: bytes, start_revision: int) -> bytes:
    """Return the body of a watch of a prefix."""
    return msgspec.json.encode(_WatchRequest(_WatchCreation(prefix, end_of(prefix), start_revision)))


def authentication_request(user: str, password: str) -> bytes:
    """Return the body of a request for a token."""
    return msgspec.json.encode(_Authentication(user, password))


# -- answers ----------------------------------------------------------------------------------------------------------


class Header(msgspec.Struct):
    """What begins each answer."""

    revision: int = 0


class KeyValue(msgspec.Struct):
    """An entry. One without a value may be empty."""

    key: bytes
    value: bytes = b""
    mod_revision: int = 0


class RangeAnswer(msgspec.Struct):
    """The answer to a read."""

    header: Header
    kvs: list[KeyValue] = []
    more: bool = False


class _OperationAnswer(msgspec.Struct):
    response_range: RangeAnswer | None = None


class TxnAnswer(msgspec.Struct):
    """The answer to a transaction."""

    header: Header
    succeeded: bool = False
    responses: list[_OperationAnswer] = []

    def found(self, prefix: bytes) -> tuple[Entry, ...]:
        """Return the entries that were read, in key order, each once."""
        answers = (response.response_range for response in self.responses)
        entries = {kv.key: _entry(kv, len(prefix)) for answer in answers if answer for kv in answer.kvs}
        return tuple(entries[key] for key in sorted(entries))


class LeaseAnswer(msgspec.Struct):
    """The answer to the grant or the renewal of a lease; one that has ended has no seconds left."""

    ID: int = 0
    TTL: int = 0


class TokenAnswer(msgspec.Struct):
    """The answer to an authentication."""

    token: str


class MemberStatus(msgspec.Struct):
    """How a member is. Its header is left out: the revision in it is the member's own, which may be behind."""

    errors: list[str] = []
    """Alarms of the cluster, and what else is wrong with the member."""


class _Event(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct):
    """One message of a watch."""

    header: Header
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[_Event] = []

    def changes(self, prefix: bytes) -> list[Changed]:
        """Return the events by their revisions. etcd never divides a revision between two messages."""
        skip = len(prefix)
        by_revision: dict[int, tuple[list[Entry], list[str]]] = {}
        for event in self.events:
            puts, deletes = by_revision.setdefault(event.kv.mod_revision, ([], []))
            if event.type == "DELETE":
                deletes.append(event.kv.key[skip:].decode(errors="replace"))
            else:
                puts.append(_entry(event.kv, skip))
        return [Changed(tuple(puts), tuple(deletes), n) for n, (puts, deletes) in by_revision.items()]


class Status(msgspec.Struct):
    """Why a request was refused. A stream of etcd 3.4 names the code ``grpc_code``."""

    message: str = ""
    code: int = 0
    grpc_code: int = 0


class StreamAnswer(msgspec.Struct):
    """A message of a stream, not decoded further, or its end. One that does not begin is refused like a request."""

    result: msgspec.Raw = msgspec.Raw()
    error: Status | str | None = None
    message: str = ""
    code: int = 0

    @property
    def status(self) -> Status | None:
        """Why the stream has ended; ``None``: it has not."""
        if isinstance(self.error, Status):
            return self.error
        return Status(self.message or self.error, self.code) if self.error is not None else None


def entries(answer: RangeAnswer, prefix: bytes) -> list[Entry]:
    """Return the entries of a read."""
    return [_entry(kv, len(prefix)) for kv in answer.kvs]


def _entry(kv: KeyValue, skip: int) -> Entry:
    return Entry(kv.key[skip:].decode(errors="replace"), kv.value, kv.mod_revision)


_DECODERS: Final[Mapping[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind, strict=False)
    for kind in (RangeAnswer, TxnAnswer, LeaseAnswer, TokenAnswer, MemberStatus, WatchAnswer, Status, StreamAnswer)
}


def decoded(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Return the record of an answer.

    Raises:
        ValueError: it cannot be read.
    """
    answer: T = _DECODERS[kind].decode(body)
    return answer
