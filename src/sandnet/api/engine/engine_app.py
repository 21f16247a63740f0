"""The ASGI application that serves Docker's Engine API: what is about networks, and what clients ask the daemon first.

Everything else that an engine has is refused with status 501 and a message, so that a person at the docker command
reads what this daemon is.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from sandnet.api.engine import encode, errors, network_handlers
from sandnet.api.engine.engine_reply import EngineReply, json_reply, send_reply
from sandnet.api.engine.engine_request import EngineRequest
from sandnet.api.middleware.bodies import read_body
from sandnet.api.middleware.normalization import Receive, Scope, Send
from sandnet.api.parsing import NOT_JSON
from sandnet.core.controller import Controller
from sandnet.errors import Error

_ELSEWHERE: Final = frozenset(
    (
        "auth", "build", "commit", "configs", "containers", "distribution", "events", "exec", "grpc", "images", "nodes",
        "plugins", "secrets", "services", "session", "swarm", "system", "tasks", "volumes",
    )
)  # fmt: skip
"""First words of the paths that a container engine has, and sandnet has not."""


async def _ping(request: EngineRequest) -> EngineReply:
    fresh = (("cache-control", "no-cache, no-store, must-revalidate"), ("pragma", "no-cache"))
    return EngineReply(200, b"OK", "text/plain; charset=utf-8", fresh)


async def _version(request: EngineRequest) -> EngineReply:
    return json_reply(encode.version(request.release))


async def _info(request: EngineRequest) -> EngineReply:
    return json_reply(encode.info(request.core, request.release))


class EngineRoute(NamedTuple):
    """What answers requests of one method to one form of path."""

    method: str
    path: re.Pattern[str]
    answer: Callable[[EngineRequest], Awaitable[EngineReply]]
    has_body: bool = False


def _route(
    method: str, path: str, answer: Callable[[EngineRequest], Awaitable[EngineReply]], *, has_body: bool = False
) -> EngineRoute:
    return EngineRoute(method, re.compile(path.replace("{network}", "(?P<network>[^/]+)")), answer, has_body)


ROUTES: Final[Sequence[EngineRoute]] = (
    _route("GET", "/_ping", _ping),
    _route("GET", "/version", _version),
    _route("GET", "/info", _info),
    _route("GET", "/networks", network_handlers.list_networks),
    _route("POST", "/networks/create", network_handlers.create, has_body=True),
    _route("POST", "/networks/prune", network_handlers.prune),
    _route("GET", "/networks/{network}", network_handlers.inspect),
    _route("DELETE", "/networks/{network}", network_handlers.remove),
    _route("POST", "/networks/{network}/connect", network_handlers.connect, has_body=True),
    _route("POST", "/networks/{network}/disconnect", network_handlers.disconnect, has_body=True),
)


class EngineApp:
    """The application, for requests whose version prefix was removed."""

    def __init__(self, core: Controller, release: str) -> None:
        """Initialize the application.

        Args:
            core: started and stopped by the caller.
            release: the program's version.
        """
        self._core = core
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        method, path = scope["method"], scope["path"]
        try:
            reply = await self._answer(scope, receive)
        except Error as error:
            reply = errors.failed(method, path, error)
        except Exception as error:
            reply = errors.failed_unexpectedly(method, path, error)
        await send_reply(reply, send)

    async def _answer(self, scope: Scope, receive: Receive) -> EngineReply:
        method, path = scope["method"], scope["path"]
        found = [(route, match) for route in ROUTES if (match := route.path.fullmatch(path))]
        for route, match in found:
            if route.method == method:
                if route.has_body and scope.get(NOT_JSON):
                    return errors.failure(415, "over TCP a body needs the header Content-Type: application/json")
                body = await read_body(receive)
                query = scope["query_string"].decode("latin-1")
                reference = unquote(match.groupdict().get("network", ""))
                return await route.answer(EngineRequest(self._core, self._release, reference, query, body))
        return _refused(path, [route.method for route, _ in found])


def _refused(path: str, methods: Sequence[str]) -> EngineReply:
    """Return the reply to a path or a method that has no route."""
    if methods:
        return errors.failure(405, f"that method is not allowed on {path}; allowed: {', '.join(sorted(methods))}")
    if path.split("/")[1] in _ELSEWHERE:
        return errors.failure(
            501, f"{path} is not implemented: this is sandnet, which has networks and no containers or images"
        )
    return errors.failure(404, f"page not found: {path}")
