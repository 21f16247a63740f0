"""Route decorators for the dialect's HTTP methods: every success is 200, every failure has the documented body."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from litestar import MediaType, delete, get, patch, post
from litestar.openapi.datastructures import ResponseSpec

from sandnet.wire.libnetwork import ErrorBody


def _documented(body: type, description: str) -> ResponseSpec:
    return ResponseSpec(body, description=description, generate_examples=False)


_FAILURES: Final[Mapping[int, ResponseSpec]] = {
    400: _documented(ErrorBody, "malformed or invalid"),
    403: _documented(ErrorBody, "the name is taken, or the object is in use or may not be deleted"),
    404: _documented(ErrorBody, "no such object, or no such driver"),
    409: _documented(ErrorBody, "a host port, an address or a link is taken, or a pool or a bridge is full"),
    405: _documented(ErrorBody, "another method was used; the header Allow names those that there are"),
    408: _documented(ErrorBody, "headers or body did not arrive in time"),
    413: _documented(ErrorBody, "the body is larger than 1 MiB"),
    414: _documented(ErrorBody, "path and query are larger than 8 KiB"),
    431: _documented(ErrorBody, "more than 100 headers, or 32 KiB of them"),
    500: _documented(ErrorBody, "our own fault"),
    503: _documented(ErrorBody, "a store, a plugin or the resolver is away, or too many streams are open"),
}

_BODY_FAILURES: Final[Mapping[int, ResponseSpec]] = {
    **_FAILURES,
    415: _documented(ErrorBody, "over TCP: the header Content-Type does not say that the body is JSON"),
}

read = partial(get, responses=_FAILURES)
create = partial(post, status_code=200, media_type=MediaType.JSON, responses=_BODY_FAILURES)
change = partial(patch, status_code=200, responses=_BODY_FAILURES)
remove = partial(delete, status_code=200, responses=_FAILURES)
