"""Who may ask at all: keeps pages in a browser from being answered in the name of the person before it.

A browser reaches loopback for any page that it shows, and a page's own name may be made to mean 127.0.0.1 a moment
after it was loaded (DNS rebinding). What tells such a request from one of ours are the ``Host`` header (RFC 9110,
7.2), which names the page's host; ``Origin`` (RFC 6454, 7) and ``Sec-Fetch-Site`` (W3C Fetch Metadata), which a page
cannot leave out; and the content type, since without asking first (CORS, Fetch 2.2.2) a page can only send forms and
plain text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any, Final

from sandnet.api.front import Receive, Refusal, Scope, Send, refuse
from sandnet.wire.libnetwork import ErrorBody

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_CHANGING: Final = {"POST", "PUT", "PATCH"}
"""Methods that carry a body. DELETE needs no check: a page must ask before it may send one."""
_JSON: Final = re.compile(r"application/(?:[a-z0-9.-]+\+)?json *(?:;.*)?", re.IGNORECASE)
_OUR_SITE: Final = {b"none", b"same-origin"}


class Guard:
    """Wraps the application for one kind of listener."""

    def __init__(self, app: Any, *, names: Collection[str] | None) -> None:
        """Begin to watch.

        Args:
            app: what answers those who may ask.
            names: names and addresses by which clients call a TCP listener, beside loopback and the address that they
                reached; ``None``: a unix socket, which no browser reaches, and where the name says nothing.
        """
        self._app = app
        self._names = None if names is None else {"localhost", *map(_plain, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal:
            await refuse(*refusal, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._names is None:
            return _foreign(b"") if b"origin" in headers else _cross_site(headers)
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return (
            self._unknown_host(hosts, str((scope["server"] or ("",))[0]))
            or _other_origin(headers, scope["scheme"])
            or _cross_site(headers)
            or _not_json(headers, scope["method"])
        )

    def _unknown_host(self, hosts: list[bytes], reached: str) -> Refusal | None:
        if len(hosts) != 1:
            message = "a request needs one Host header"
            return Refusal(400, ErrorBody(message=message, code="invalid_host", hint="RFC 9112, 3.2"))
        host = hosts[0].decode("latin-1").lower()
        match = _HOST.fullmatch(host)
        if match and self._is_ours(_plain(match["name"]), _plain(reached)):
            return None
        message = f"this server is not called {host[:100]!r}"
        hint = "use localhost or an address of it, or start the daemon with --server-name"
        return Refusal(403, ErrorBody(message=message, code="forbidden_host", hint=hint))

    def _is_ours(self, name: str, reached: str) -> bool:
        try:
            return name in (self._names or ()) or name == reached or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _plain(name: str) -> str:
    """One form for each name, and for each address."""
    bare = name.lower().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def _other_origin(headers: dict[bytes, bytes], scheme: str) -> Refusal | None:
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


def _not_json(headers: dict[bytes, bytes], method: str) -> Refusal | None:
    if method not in _CHANGING or _JSON.fullmatch(headers.get(b"content-type", b"").decode("latin-1")):
        return None
    message = "over TCP a body must say that it is JSON, since web pages can send other ones without asking"
    return Refusal(
        415, ErrorBody(message=message, code="not_json", hint="add the header Content-Type: application/json")
    )
