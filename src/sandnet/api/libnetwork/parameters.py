"""Strict parsing of path, query and body, before a route's handler runs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, unquote

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException
from litestar.params import PathParameter, QueryParameter

from sandnet.api import errors
from sandnet.api.middleware.normalization import MAX_BODY
from sandnet.api.parsing import NOT_JSON
from sandnet.core.controller import Controller
from sandnet.errors import Error, invalid
from sandnet.wire import libnetwork as wire

Core = NamedDependency[Controller]
"""The controller, as a parameter of handlers."""
Release = NamedDependency[str]
"""The program's version, as a parameter of handlers."""

Ref = Annotated[str, PathParameter(description="id, name or unique id prefix")]
Name = Annotated[str | None, QueryParameter(name="name", description="only the object with exactly this name")]
PartialId = Annotated[str | None, QueryParameter(name="partial-id", description="only objects whose id starts so")]
OfNetwork = Annotated[str | None, QueryParameter(name="network", description="only services of this network")]
OfNode = Annotated[str | None, QueryParameter(name="node", description="only this host")]
Since = Annotated[
    int | None,
    QueryParameter(name="since", ge=0, le=2**63 - 1, description="go on after the event of this number"),
]
Question = Annotated[str, QueryParameter(name="name", description="what is asked for: a name or an address")]
RequestedBy = Annotated[str, QueryParameter(name="from", description="the container that asks: id or unique id prefix")]
Force = Annotated[bool, QueryParameter(name="force", description="take along what is alive on it")]
Verbose = Annotated[bool, QueryParameter(name="verbose", description="also return what an operator needs")]


LISTING: Final = ("name", "partial-id")
"""Filters of the lists; a request may use at most one of them."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_PLACE: Final = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")


class WireRequest(Request[Any, Any, Any]):
    """A request whose body is decoded as JSON, with any Content-Type, into the type that its handler declares."""

    async def json(self) -> Any:
        """Return the decoded body.

        Raises:
            Error: kind ``INVALID``.
        """
        field = self.route_handler.parsed_data_field
        return read_body(await self.body(), field.annotation if field else object)


def read_body(body: bytes, kind: type[Any]) -> Any:
    """Return the body decoded as ``kind``.

    Raises:
        Error: kind ``INVALID``, with the path of the faulty value.
    """
    try:
        return wire.decode(body, kind)
    except ValueError as error:
        raise _unreadable(str(error)) from None


async def prepare(request: Request[Any, Any, Any]) -> Response[bytes] | None:
    """Decode the path's segments, and refuse queries and bodies that are invalid for every handler.

    Raises:
        Error: kind ``INVALID``.
    """
    scope = request.scope
    if (request.content_length or 0) > MAX_BODY:
        return errors.error_response(413, errors.too_large())
    if request.route_handler.parsed_data_field and request.scope.get(NOT_JSON):
        return errors.error_response(415, errors.not_json())
    scope["path_params"] = {name: unquote(value) for name, value in scope["path_params"].items()}
    _check_query(request, scope["query_string"].decode("latin-1"))
    if request.route_handler.parsed_data_field and not await _whole_body(request):
        raise invalid("the body is empty", "send a JSON object", "invalid_body")
    return None


async def _whole_body(request: Request[Any, Any, Any]) -> bytes:
    try:
        return await request.body()
    except InternalServerException:  # the framework treats a client's disconnection as a server error
        raise invalid("the client hung up before its body was complete", code="incomplete_body") from None


def _check_query(request: Request[Any, Any, Any], query: str) -> None:
    options = request.route_handler.opt
    filters, needed = options.get("filters", ()), options.get("needed", ())
    known = {*filters, *needed, *options.get("optional", ()), *(("verbose",) if request.method == "GET" else ())}
    seen: set[str] = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            allowed = f"known here: {', '.join(sorted(known))}" if known else "this operation takes none"
            raise invalid(f"unknown query parameter: {name!r}", allowed, "invalid_query")
        if name in seen:
            raise invalid(f"query parameter {name} is given twice", "give it once", "invalid_query")
        _check_value(name, value, options.get("empty_name", False))
        seen.add(name)
    if len(seen.intersection(filters)) > 1:
        raise invalid(f"filters cannot be combined: {', '.join(sorted(seen))}", "use one of them", "invalid_query")
    for name in needed:
        if name not in seen:
            raise invalid(f"query parameter {name} is missing", f"needed here: {', '.join(needed)}", "invalid_query")


def _check_value(name: str, value: str, empty_name: bool) -> None:
    if name in ("verbose", "force") and value not in ("true", "false"):
        raise invalid(f"{name}: {value!r} is neither true nor false", code="invalid_query")
    if name == "since" and value and not _NUMBER.fullmatch(value):
        raise invalid(f"since: {value[:40]!r} is no event's number", code="invalid_query")
    if not value and not (name == "name" and empty_name):
        raise invalid(f"query parameter {name} is empty", "give it a value, or leave it out", "invalid_query")


def _unreadable(reason: str) -> Error:
    """Return the decoder's reason with the path of the value in front, and without code formatting."""
    match = _PLACE.search(reason)
    where = f"{match['place']}: " if match and match["place"] else ""
    what = reason[: match.start()] if match else reason
    return invalid(f"invalid body: {where}{what.replace('`', '')}", code="invalid_body")
