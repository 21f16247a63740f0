"""The host's own name servers, from its resolv.conf (resolv.conf(5))."""

from __future__ import annotations

import os
import time
from typing import Final

from sandnet.model.address import Address
from sandnet.model.resolv_conf import ResolvConf, parsed

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
        """The servers in the file's order, each once; the one on loopback when it names none or is not there."""
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
                    self._servers = parsed(file.read(_READ_LIMIT)).asked
                self._seen = seen
        except OSError:
            self._seen, self._servers = (), ResolvConf().asked
