"""What the statuses of etcd mean for a request: whether it can have been applied, and what helps."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec

from sandnet.errors import Error, Kind
from sandnet.escaping import printable
from sandnet.stores.etcd.gateway import Status, StreamAnswer, decoded
from sandnet.stores.etcd.member_connection import HttpAnswer
from sandnet.stores.etcd.tls_files import UNAUTHORIZED
from sandnet.stores.shared import store_full, store_unavailable

# Codes of gRPC.
_INVALID_ARGUMENT: Final = 3
_NOT_FOUND: Final = 5
_PERMISSION_DENIED: Final = 7
_RESOURCE_EXHAUSTED: Final = 8
_FAILED_PRECONDITION: Final = 9
_UNIMPLEMENTED: Final = 12
_OUT_OF_RANGE: Final = 11
_UNAUTHENTICATED: Final = 16
_LONGEST_REASON: Final = 300


class Meaning(Enum):
    """What a status means."""

    LEASE_ENDED = auto()
    """The lease does not exist."""
    COMPACTED = auto()
    """The revision is not kept any more."""
    TOKEN_REFUSED = auto()
    """The user's token has expired: with a new one, the request is repeated."""
    NO_AUTHENTICATION = auto()
    """The cluster has no users."""
    NOT_APPLIED = auto()
    """This member cannot carry out the request now; it was not applied, and another member may."""
    UNCLEAR = auto()
    """The same, but it may have been applied."""
    REFUSED = auto()
    """It was not applied; no other member would do it."""


_BY_MESSAGE: Final = {
    "etcdserver: requested lease not found": Meaning.LEASE_ENDED,
    "etcdserver: mvcc: required revision has been compacted": Meaning.COMPACTED,
    "etcdserver: invalid auth token": Meaning.TOKEN_REFUSED,
    "etcdserver: revision of auth store is old": Meaning.TOKEN_REFUSED,
    "etcdserver: user name is empty": Meaning.TOKEN_REFUSED,  # the cluster has users since a moment ago
    "etcdserver: authentication is not enabled": Meaning.NO_AUTHENTICATION,
    "etcdserver: no leader": Meaning.NOT_APPLIED,  # by the request's own demand, before anything was done
    "etcdserver: too many requests": Meaning.NOT_APPLIED,
    "etcdserver: rpc not supported for learner": Meaning.NOT_APPLIED,
}
_REFUSED: Final = {
    _INVALID_ARGUMENT, _NOT_FOUND, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _FAILED_PRECONDITION, _OUT_OF_RANGE,
    _UNIMPLEMENTED, _UNAUTHENTICATED,
}  # fmt: skip


def status_of(answer: HttpAnswer) -> Status:
    """Return the status of an answer that is not 200."""
    try:
        status = decoded(answer.body, Status)
    except ValueError:
        status = Status()
    if not status.message:
        status.message = f"status {answer.status}"
        status.code = _UNIMPLEMENTED if answer.status in (404, 405) else status.code
    return status


def unwrapped(answer: HttpAnswer) -> HttpAnswer:
    """Return the only message of a stream as an answer of its own."""
    try:
        message = decoded(answer.body, StreamAnswer)
    except ValueError:
        return answer
    if answer.status == 200 and (status := message.status):
        return HttpAnswer(503, msgspec.json.encode(status))
    return HttpAnswer(200, bytes(message.result)) if answer.status == 200 else answer


def meaning(status: Status) -> Meaning:
    """Return what a status means."""
    if found := _BY_MESSAGE.get(status.message):
        return found
    return Meaning.REFUSED if (status.code or status.grpc_code) in _REFUSED else Meaning.UNCLEAR


def error_of(status: Status, member: str) -> Error:
    """Return the error for a request that was refused or cannot be carried out now."""
    code, text = status.code or status.grpc_code, printable(status.message[:_LONGEST_REASON])
    reason = f"the shared store refuses the request ({member}): {text}"
    if "database space exceeded" in text:
        return store_full(f"{member}: {text}")
    if code == _PERMISSION_DENIED:
        hint = "grant the user's role readwrite on the store's prefix"
        return Error(Kind.UNAVAILABLE, reason, hint, "store_denied")
    if code == _UNAUTHENTICATED or "authentication failed" in text or "user name is empty" in text:
        return Error(Kind.UNAVAILABLE, reason, "see store_user and store_password_file", UNAUTHORIZED)
    if code == _UNIMPLEMENTED:
        hint = "the members need their JSON gateway: etcd 3.4 or newer, without --enable-grpc-gateway=false"
        return store_unavailable(f"{member}: {text}", hint)
    return store_unavailable(f"{member}: {text}")
