"""Protection against requests that a web page sends through the browser of a user who has access (CSRF).

A browser connects to loopback for any page that it shows. A page's own name can be made to resolve to 127.0.0.1 a
moment after the page was loaded (DNS rebinding). These headers distinguish such a request from one of our clients:
``Host`` (RFC 9110, 7.2) names the page's host; ``Origin`` (RFC 6454, 7) and ``Sec-Fetch-Site`` (W3C Fetch Metadata)
cannot be left out by a page; and without a preflight request (CORS, Fetch 2.2.2) a page can send only the content types
of forms and plain text. A header that such a check reads may be given only once: of two, a proxy might read one and
this server the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Any, Final

from sandnet.api import errors
from sandnet.api.middleware.normalization import Message, Receive, Refusal, Scope, Send, refuse
from sandnet.api.parsing import NOT_JSON
from sandnet.wire.libnetwork import ErrorBody

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_JSON: Final = re.compile(r"application/(?:[a-z0-9.-]+\+)?json *(?:;.*)?", re.IGNORECASE)
_OUR_SITE: Final = {b"none", b"same-origin"}
_SINGLE: Final = frozenset(
    (
        b"authorization", b"content-encoding", b"content-length", b"content-type", b"expect", b"host", b"origin",
        b"referer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Headers that may be given at most once. Those whose names begin with ``sec-``, which only browsers set, are added."""


class BrowserProtection:
    """ASGI middleware that refuses requests of web pages, for one kind of listener."""

    def __init__(self, app: Any, *, names: Collection[str] | None) -> None:
        """Initialize the middleware.

        Args:
            app: the application that answers the allowed requests.
            names: names and addresses by which clients call a TCP listener, besides loopback and the address that they
                connected to; ``None``: a unix socket, which no browser can reach, and where the host name means
                nothing.
        """
        self._app = app
        self._names = None if names is None else {"localhost", *map(_canonical, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outgoing = _Outgoing(send)
        try:
            await self._answer(scope, receive, outgoing)
        except Exception as error:  # the application handles its own exceptions; this one was raised around it
            errors.log.error("%s %s failed unexpectedly", scope["method"], scope["path"], exc_info=error)
            if outgoing.begun:
                raise
            await refuse(500, errors.internal(), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal:
            await refuse(*refusal, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if repeated := _repeated(name for name, _ in scope["headers"]):
            return repeated
        if self._names is None:
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"host"]  # any name is allowed
            return _foreign(b"") if b"origin" in headers else _cross_site(headers)
        scope[NOT_JSON] = not _is_json(headers)
        return (
            self._unknown_host(headers.get(b"host"), str((scope["server"] or ("",))[0]))
            or _foreign_origin(headers, scope["scheme"])
            or _cross_site(headers)
        )

    def _unknown_host(self, given: bytes | None, reached: str) -> Refusal | None:
        if given is None:
            return _invalid_host()
        host = given.decode("latin-1").lower()
        match = _HOST.fullmatch(host)
        if match and self._is_ours(_canonical(match["name"]), _canonical(reached)):
            return None
        message = f"this server is not called {host[:100]!r}"
        hint = "use localhost or an address of it, or start the daemon with --server-name"
        return Refusal(403, ErrorBody(message=message, code="forbidden_host", hint=hint))

    def _is_ours(self, name: str, reached: str) -> bool:
        try:
            return name in (self._names or ()) or name == reached or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _canonical(name: str) -> str:
    """Return one spelling for each name and for each address."""
    bare = name.lower().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def _foreign_origin(headers: dict[bytes, bytes], scheme: str) -> Refusal | None:
    origin = headers.get(b"origin")
    if origin is None or origin.lower() == scheme.encode() + b"://" + headers[b"host"].lower():
        return None
    return _foreign(origin)


def _foreign(origin: bytes) -> Refusal:
    of = f" of {origin.decode('latin-1')[:100]!r}" if origin else ""
    message = f"requests of web pages{of} are not answered: the request has an Origin that is not ours"
    hint = "use the command line, or a program that sends no Origin header"
    return Refusal(403, ErrorBody(message=message, code="forbidden_origin", hint=hint))


def _cross_site(headers: dict[bytes, bytes]) -> Refusal | None:
    if headers.get(b"sec-fetch-site", b"none").lower() in _OUR_SITE:
        return None
    return _foreign(b"")


def _repeated(names: Iterable[bytes]) -> Refusal | None:
    seen: set[bytes] = set()
    for name in names:
        if name in seen:
            if name == b"host":
                return _invalid_host()
            message = f"the header {name.decode('latin-1')[:40]!r} is given twice"
            return Refusal(400, ErrorBody(message=message, code="repeated_header", hint="give it once"))
        if name in _SINGLE or name.startswith(b"sec-"):
            seen.add(name)
    return None


def _invalid_host() -> Refusal:
    message = "a request needs one Host header"
    return Refusal(400, ErrorBody(message=message, code="invalid_host", hint="RFC 9112, 3.2"))


def _is_json(headers: dict[bytes, bytes]) -> bool:
    return _JSON.fullmatch(headers.get(b"content-type", b"").decode("latin-1")) is not None


class _Outgoing:
    """A ``send`` callable that records whether a response has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)
