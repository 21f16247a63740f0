"""The host's own name servers, from its resolv.conf (resolv.conf(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from sandnet.model.address import Address

RESOLV_CONF: Final = "/etc/resolv.conf"
_READ_LIMIT: Final = 64 << 10
_LOOK_AGAIN: Final = 0.5
"""Seconds between two looks at the file: a change is in force after that time."""


class HostServers:
    """Reads the file again when it has changed."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._looked = -1.0
        self._seen: tuple[int, ...] = ()
        self._servers: tuple[Address, ...] = ()

    def current(self) -> tuple[Address, ...]:
        """The servers in the file's order, each once; empty when it names none or is not there."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_AGAIN or self._looked < 0:
            self._looked = now
            self._look()
        return self._servers

    def _look(self) -> None:
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._servers = tuple(dict.fromkeys(_servers(file.read(_READ_LIMIT))))
                self._seen = seen
        except OSError:
            self._seen, self._servers = (), ()


def _servers(text: str) -> Iterator[Address]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                yield ip_address(words[1])
            except ValueError:
                continue
