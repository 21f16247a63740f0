"""``/cni``: one route for each command of the plugin. A failure has the specification's body and codes."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException

from sandnet.api.cni import decode, encode, errors
from sandnet.api.cni.call import Call, read_call
from sandnet.api.cni.check import differences
from sandnet.api.cni.network import driver_of
from sandnet.api.parsing import NOT_JSON
from sandnet.core.controller import Controller
from sandnet.errors import Error, Kind, invalid

Core = NamedDependency[Controller]
"""The controller, as a parameter of handlers."""
AnyRequest = Request[Any, Any, Any]


@post("/add", status_code=200)
async def add(core: Core, request: AnyRequest) -> Response[bytes]:
    """Attach a container, and return the result of the specification."""
    call = await read_call(request, "container", "netns", "ifname")
    added = await core.runtime_attachments.add(decode.attach_spec(call))
    routes = core.runtime_attachments.default_routes(added)
    servers = core.runtime_attachments.name_servers(added)
    return _answer(msgspec.json.encode(encode.result(call, added, routes, servers)))


@post("/del", status_code=200)
async def delete(core: Core, request: AnyRequest) -> Response[bytes]:
    """Delete an attachment, which may be absent."""
    call = await read_call(request, "container", "ifname")
    await core.runtime_attachments.delete(call.network, call.container_id, call.interface, call.netns)
    return _answer()


@post("/check", status_code=200)
async def check(core: Core, request: AnyRequest) -> Response[bytes]:
    """Compare an attachment with ``prevResult``, and with the kernel."""
    call = await read_call(request, "container", "netns", "ifname")
    found = core.runtime_attachments.find(call.network, call.container_id, call.interface)
    if found is None:
        raise _failed(call, "it is not attached")
    problems = [*differences(call, found), *await core.inspect_sandbox(call.container_id)]
    if problems:
        raise _failed(call, "; ".join(problems))
    return _answer()


@post("/gc", status_code=200)
async def collect_garbage(core: Core, request: AnyRequest) -> Response[bytes]:
    """Delete the attachments to the network that are not valid any more."""
    call = await read_call(request)
    await core.runtime_attachments.delete_others(call.network, decode.valid_attachments(call))
    return _answer()


@post("/status", status_code=200)
async def status(core: Core, request: AnyRequest) -> Response[bytes]:
    """Return whether an ``ADD`` can succeed."""
    name = driver_of((await read_call(request)).configuration)
    driver = next((each for each in core.health().drivers if each.name == name), None)
    if driver is None or not driver.available:
        reason = driver.reason if driver else "there is none"
        raise Error(Kind.UNAVAILABLE, f"the driver {name} is not available: {reason}", "", errors.NOT_AVAILABLE)
    return _answer()


def _answer(body: bytes = b"") -> Response[bytes]:
    return Response(body, media_type=errors.MEDIA_TYPE)


def _failed(call: Call, reason: str) -> Error:
    message = f"interface {call.interface} of container {call.container_id} on network {call.network}: {reason}"
    return Error(Kind.CONFLICT, message, "delete the attachment and add it again", "check_failed")


async def require_json(request: AnyRequest) -> None:
    """Refuse a request that a web page can send without asking; it replaces the checks of the other dialect.

    Raises:
        Error: ``INVALID``.
    """
    if request.scope.get(NOT_JSON):
        raise invalid("over TCP a body must say that it is JSON", "add Content-Type: application/json")


ROUTER = Router(
    path="/cni",
    route_handlers=[add, delete, check, collect_garbage, status],
    request_class=Request,
    before_request=require_json,
    exception_handlers={
        Error: errors.on_error,
        HTTPException: errors.on_http_exception,
        Exception: errors.on_unexpected,
    },
)
"""The routes of the dialect."""
