"""One HTTP/1.1 request and its answer over a connected socket, for the client.

The standard library's ``http.client`` also loads what parses e-mail and TLS, which takes a quarter of a command's
start. The parser here is httptools, that of the daemon.
"""

from __future__ import annotations

import errno
import socket
import time
from math import inf
from typing import Final

from httptools import HttpParserError, HttpResponseParser

_PIECE: Final = 1 << 16
_MAX_HEAD: Final = 1 << 16
"""Limit of bytes before the end of the headers."""
_WAIT: Final = 1.0
"""Longest single wait in seconds. A signal that arrives just before ``recv`` begins does not interrupt it, and Python
runs the handler only after ``recv`` returns. Without this limit, Ctrl-C would wait for the connection's own timeout."""
_DELIMITERS: Final = ("content-length", "transfer-encoding")
"""Headers that say where a body ends; without them it ends with the connection (RFC 9112, 6.3)."""


def request(method: str, target: str, authority: str, payload: bytes | None) -> bytes:
    """Return a request of one connection.

    Args:
        method: of HTTP.
        target: path and query, percent-encoded.
        authority: value of ``Host``.
        payload: a JSON document; ``None``: the request has no body.

    Raises:
        ValueError: the target or the authority contains characters that have no place there.
    """
    if not target.isascii() or not authority.isascii() or not (target + authority).isprintable() or " " in target:
        raise ValueError(f"invalid target of a request: {target!r} at {authority!r}")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}", "Accept-Encoding: identity", "Connection: close"]
    if payload is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    elif method not in ("GET", "HEAD", "DELETE"):
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "", ""]).encode() + (payload or b"")


class Answer:
    """The answer to a request; the body is read when it is asked for.

    Attributes:
        status: of HTTP.
        headers: the header fields by their names in lower case.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Read the answer up to the end of its headers.

        Args:
            connection: a socket over which a request was sent; the answer does not own it.

        Raises:
            OSError: the connection is lost, or what arrives is no HTTP.
        """
        self._connection = connection
        self._parser = HttpResponseParser(self)
        self._body = bytearray()
        self._has_head = self._is_complete = False
        self._received = 0
        self.headers: dict[str, str] = {}
        while not self._has_head and self._receive():
            if self._received > _MAX_HEAD and not self._has_head:
                raise ConnectionResetError("the headers of its answer do not end")
        if not self._has_head:
            raise ConnectionResetError("the connection was closed before an answer")
        self.status: int = self._parser.get_status_code()

    def read(self) -> bytes:
        """Return the rest of the body.

        Raises:
            OSError: the connection is lost before its end.
        """
        while self._receive():
            pass
        return self._take(len(self._body))

    def readline(self) -> bytes:
        """Return the next line of the body with its end; without an end: the body's last bytes, or none.

        Raises:
            OSError: as :meth:`read`.
        """
        searched = 0
        while (end := self._body.find(b"\n", searched)) < 0:
            searched = len(self._body)
            if not self._receive():
                return self._take(len(self._body))
        return self._take(end + 1)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._body[:count])
        del self._body[:count]
        return taken

    def _receive(self) -> bool:
        """Receive a piece; return whether there can be more."""
        if self._is_complete:
            return False
        piece = self._next_piece()
        if not piece:
            self._is_complete = True
            if self._has_head and any(name in self.headers for name in _DELIMITERS):
                raise ConnectionResetError("the connection was closed before the end of the answer")
            return False
        self._received += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserError as failure:
            raise ConnectionResetError(f"its answer is no HTTP: {failure}") from failure
        return True

    def _next_piece(self) -> bytes:
        timeout = self._connection.gettimeout()
        deadline = inf if timeout is None else time.monotonic() + timeout
        try:
            while True:
                self._connection.settimeout(min(_WAIT, max(deadline - time.monotonic(), 0.001)))
                try:
                    return self._connection.recv(_PIECE)
                except TimeoutError as failure:
                    if failure.errno == errno.ETIMEDOUT:  # tcp(7), reported once; the end of a wait has no errno
                        raise ConnectionResetError("the other side's machine no longer responds") from failure
                    if time.monotonic() >= deadline:
                        raise
        finally:
            self._connection.settimeout(timeout)

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header field."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note the end of the headers."""
        self._has_head = True

    def on_body(self, piece: bytes) -> None:
        """Store a piece of the body."""
        self._body += piece

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        self._is_complete = True
