"""Error responses of the CNI dialect: its codes (specification, section "Error"), and its body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from sandnet.api.errors import retry_after
from sandnet.errors import Error, Kind
from sandnet.wire.cni import ErrorResult
from sandnet.wire.cni_versions import NEWEST

MEDIA_TYPE: Final = "application/cni+json"
"""Content type of all responses of this dialect. The plugin prints only such a body as it is."""
VERSION_KEY: Final = "sandnet.cni_version"
"""Key in the request's state: the version that the configuration names."""

INCOMPATIBLE_VERSION: Final = "incompatible_version"
UNSUPPORTED_FIELD: Final = "unsupported_field"
INVALID_ENVIRONMENT: Final = "invalid_environment"
UNREADABLE: Final = "unreadable"
NOT_AVAILABLE: Final = "not_available"

_BY_CODE: Final[Mapping[str, int]] = {
    INCOMPATIBLE_VERSION: 1,
    UNSUPPORTED_FIELD: 2,
    "namespace_not_found": 3,
    INVALID_ENVIRONMENT: 4,
    "invalid_container_id": 4,
    "host_namespace": 4,
    "not_a_namespace": 4,
    "namespace_taken": 4,
    "namespace_differs": 4,
    "already_joined": 4,
    UNREADABLE: 6,
    NOT_AVAILABLE: 50,
}
_BY_KIND: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 7,
    Kind.NOT_FOUND: 7,
    Kind.UNAVAILABLE: 11,
    Kind.INTERNAL: 100,
    Kind.CONFLICT: 101,
    Kind.EXHAUSTED: 102,
    Kind.NAME_TAKEN: 103,
    Kind.IN_USE: 103,
    Kind.PROTECTED: 103,
}
"""The code of each kind of failure: 3 means that the runtime has nothing to clean up, 11 that it may try again, and
from 100 on they are the plugin's own."""
_STATUS: Final[Mapping[int, int]] = {11: 503, 50: 503, 100: 500}
"""The HTTP status of a code; of any other it is 400."""

AnyRequest = Request[Any, Any, Any]

log = logging.getLogger(__name__)


def code_of(error: Error) -> int:
    """Return the CNI code of an error."""
    return _BY_CODE.get(error.code, _BY_KIND[error.kind])


def on_error(request: AnyRequest, error: Error) -> Response[bytes]:
    """Return the response to an error of sandnet's own classes; log it if its kind is ``INTERNAL``."""
    if error.kind is Kind.INTERNAL:
        log.error("%s failed: %s", request.scope["path"], error.message, exc_info=error)
    return _response(request, code_of(error), error.message, error.hint, retry_after(error.code))


def on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Return the response to the framework's refusal of a request."""
    return _response(request, 6, f"the request was refused: {error.detail}")


def on_unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Return the response to an unexpected exception: the log contains the details, the response none of them."""
    log.error("%s failed unexpectedly", request.scope["path"], exc_info=error)
    return _response(request, 100, "internal error", "see the daemon's log")


def _response(
    request: AnyRequest, code: int, message: str, details: str = "", headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    version = str(request.state.get(VERSION_KEY, NEWEST))
    body = ErrorResult(cni_version=version, code=code, msg=message, details=details)
    status = _STATUS.get(code, 400)
    return Response(msgspec.json.encode(body), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)
