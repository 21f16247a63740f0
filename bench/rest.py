"""One connection to a REST interface on a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

JSON = Any
"""A decoded answer."""

IDLE = 2.0
"""Seconds after which a connection is not used again: servers close idle ones, ours after five."""


class Connection(http.client.HTTPConnection):
    """Stays open from one request to the next, unless the next comes late."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path
        self._used = time.monotonic()

    def connect(self) -> None:
        """Connect to the Unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: JSON = None) -> JSON:
        """Return the decoded answer, ``None`` where there is none.

        Raises:
            RuntimeError: the status is no success.
        """
        if body is None:
            answer = self.exchange(method, path, None, {})
        else:
            answer = self.exchange(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.loads(answer) if answer else None

    def exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        """Return the same without the decoding."""
        if time.monotonic() - self._used > IDLE:
            self.close()  # the next request opens it again
        self.request(method, path, body, headers)
        response = self.getresponse()
        answer = response.read()
        self._used = time.monotonic()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode(errors='replace')}")
        return answer
