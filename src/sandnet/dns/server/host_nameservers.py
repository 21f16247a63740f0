"""The host's own name servers, from its resolv.conf (resolv.conf(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from sandnet.dns.server.forwarder import Options
from sandnet.model.address import Address
from sandnet.model.resolv_conf import RESOLV_CONF, ResolvConf, parsed

_READ_LIMIT: Final = 64 << 10
_LONGEST: Final = 30
_MOST_ATTEMPTS: Final = 5
_CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks of the file: a change is in force after that time."""


class HostNameservers:
    """The name servers and options in resolv.conf. A changed file is read again."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._checked = -1.0
        self._seen: tuple[int, ...] = ()
        self._servers: tuple[Address, ...] = ()
        self._options = Options()

    def current(self) -> tuple[Address, ...]:
        """Return the servers in the file's order, without duplicates; loopback if it has none or does not exist."""
        self._check_again()
        return self._servers

    def options(self) -> Options:
        """Return the file's options for its servers."""
        self._check_again()
        return self._options

    def _check_again(self) -> None:
        now = time.monotonic()
        if now - self._checked >= _CHECK_INTERVAL or self._checked < 0:
            self._checked = now
            self._check()

    def _check(self) -> None:
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    settings = parsed(file.read(_READ_LIMIT))
                self._servers, self._options = settings.effective_servers, _options(settings.options)
                self._seen = seen
        except OSError:
            self._seen, self._servers, self._options = (), ResolvConf().effective_servers, Options()


def _options(words: Iterable[str]) -> Options:
    """Return the options as a C library interprets them, with at most 30 s and 5 attempts (resolv.conf(5))."""
    values = {kind: value for kind, _, value in (word.partition(":") for word in words)}
    timeout, attempts = (_number(values.get(kind, "")) for kind in ("timeout", "attempts"))
    return Options(
        Options().timeout if timeout is None else float(max(1, min(timeout, _LONGEST))),
        Options().attempts if attempts is None else max(1, min(attempts, _MOST_ATTEMPTS)),
        "rotate" in values,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None
