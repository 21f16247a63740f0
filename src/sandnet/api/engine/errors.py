"""Error responses of Docker's Engine API: its statuses, and its body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from sandnet.api.engine.engine_reply import EngineReply, json_reply
from sandnet.errors import Error, Kind
from sandnet.wire.engine import EngineFailure

STATUS: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 400,
    Kind.NAME_TAKEN: 409,
    Kind.IN_USE: 403,
    Kind.PROTECTED: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.EXHAUSTED: 409,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
"""The status of each kind of error."""
NOT_IMPLEMENTED: Final = "not_implemented"
"""Code of errors for what an engine has and sandnet has not."""
_BY_CODE: Final[Mapping[str, int]] = {NOT_IMPLEMENTED: 501, "already_joined": 403, "body_too_large": 413}
"""The status of errors with a code that Docker does not treat as others of their kind."""

log = logging.getLogger(__name__)


def not_implemented(what: str, hint: str = "") -> Error:
    """Return the error for a request that only a container engine can serve."""
    return Error(Kind.INVALID, what, hint, NOT_IMPLEMENTED)


def failed(method: str, path: str, error: Error) -> EngineReply:
    """Return the reply to an error of sandnet's own classes; log it if its kind is ``INTERNAL``."""
    if error.kind is Kind.INTERNAL:
        log.error("%s %s failed: %s", method, path, error.message, exc_info=error)
    # the hint of an object in use names options of sandnet's own requests
    message = error.message if error.kind is Kind.IN_USE else error.reason
    return failure(_BY_CODE.get(error.code, STATUS[error.kind]), message)


def failed_unexpectedly(method: str, path: str, error: Exception) -> EngineReply:
    """Return the reply to an unexpected exception: the log contains the details, the reply none of them."""
    log.error("%s %s failed unexpectedly", method, path, exc_info=error)
    return failure(500, "internal error; see the daemon's log")


def failure(status: int, message: str) -> EngineReply:
    """Return a reply with an error's body."""
    return json_reply(EngineFailure(message), status)


def unreadable(reason: msgspec.DecodeError | UnicodeDecodeError) -> Error:
    """Return the error for a body that is not the JSON of its request."""
    return Error(Kind.INVALID, f"invalid body: {reason}", code="invalid_body")
