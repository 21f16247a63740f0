"""The ASGI application that serves Docker's plugin protocol: POST requests to a few fixed paths."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from sandnet.api.middleware.bodies import read_body
from sandnet.api.middleware.normalization import Receive, Scope, Send
from sandnet.api.plugin.handlers import VERBS, Verb
from sandnet.core.controller import Controller
from sandnet.errors import Error, Kind, invalid
from sandnet.wire.plugin import PluginFailure

MEDIA_TYPE: Final = "application/vnd.docker.plugins.v1.1+json"
DEADLINE: Final = 20.0
"""Seconds until a request is answered even if something hangs. An engine waits 30, then starts the request again."""

_log = logging.getLogger(__name__)


class PluginApp:
    """The application. It is served on a unix socket of its own, which only root and its group can use."""

    def __init__(self, core: Controller, *, deadline: float = DEADLINE) -> None:
        """Initialize the application.

        Args:
            core: started and stopped by the caller.
            deadline: seconds until a request is answered.
        """
        self._core = core
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. A verb that fails is answered with status 200 and ``Err``, as engines expect."""
        if scope["type"] != "http":
            return
        verb = VERBS.get(scope["path"])
        if verb is None:
            await _answer(send, 404, _failure(f"this plugin has no {scope['path']!a}"))
        elif scope["method"] != "POST":
            await _answer(send, 405, _failure("use POST"))
        else:
            await _answer(send, 200, await self._run(scope["path"], verb, receive))

    async def _run(self, path: str, verb: Verb, receive: Receive) -> msgspec.Struct:
        try:
            async with asyncio.timeout(self._deadline):
                return await verb.answer(self._core, _decoded(await read_body(receive), verb))
        except TimeoutError:
            return _failure(f"not finished after {self._deadline:g} s; see the health report (sandnet status)")
        except Error as failure:
            if failure.kind is Kind.INTERNAL:
                _log.error("%s failed: %s", path, failure.message, exc_info=failure)
            return _failure(f"{failure.message} ({failure.hint})" if failure.hint else failure.message)
        except Exception:
            _log.exception("%s failed unexpectedly", path)
            return _failure("internal error, see the daemon's log")


def _failure(reason: str) -> PluginFailure:
    return PluginFailure(error=reason, ipam_error=reason)


def _decoded(body: bytes, verb: Verb) -> msgspec.Struct:
    """Return the request; an absent body and ``null`` count as one without fields."""
    if body.strip() in (b"", b"null"):
        body = b"{}"
    try:
        return msgspec.json.decode(body, type=verb.request)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        raise invalid(f"the request cannot be read: {failure}", code="invalid_body") from failure


async def _answer(send: Send, status: int, body: msgspec.Struct) -> None:
    content = msgspec.json.encode(body)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
