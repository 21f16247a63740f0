"""The host's own name servers, from its resolv.conf (resolv.conf(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from sandnet.dns.server.forwarder import Options
from sandnet.model.address import Address
from sandnet.model.resolv_conf import ResolvConf, parsed

RESOLV_CONF: Final = "/etc/resolv.conf"
_READ_LIMIT: Final = 64 << 10
_LONGEST: Final = 30
_MOST_ATTEMPTS: Final = 5
_LOOK_AGAIN: Final = 0.5
"""Seconds between two looks at the file: a change is in force after that time."""


class HostServers:
    """Reads the file again when it has changed."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._looked = -1.0
        self._seen: tuple[int, ...] = ()
        self._servers: tuple[Address, ...] = ()
        self._options = Options()

    def current(self) -> tuple[Address, ...]:
        """The servers in the file's order, each once; the one on loopback when it names none or is not there."""
        self._look_again()
        return self._servers

    def options(self) -> Options:
        """Return what the file says of how they are asked."""
        self._look_again()
        return self._options

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked >= _LOOK_AGAIN or self._looked < 0:
            self._looked = now
            self._look()

    def _look(self) -> None:
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    said = parsed(file.read(_READ_LIMIT))
                self._servers, self._options = said.asked, _options(said.options)
                self._seen = seen
        except OSError:
            self._seen, self._servers, self._options = (), ResolvConf().asked, Options()


def _options(words: Iterable[str]) -> Options:
    """Return the options as a C library reads them; it takes at most 30 seconds and 5 attempts (resolv.conf(5))."""
    values = {kind: value for kind, _, value in (word.partition(":") for word in words)}
    timeout, attempts = (_number(values.get(kind, "")) for kind in ("timeout", "attempts"))
    return Options(
        Options().timeout if timeout is None else float(max(1, min(timeout, _LONGEST))),
        Options().attempts if attempts is None else max(1, min(attempts, _MOST_ATTEMPTS)),
        "rotate" in values,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None
