"""The host's own hosts and resolv.conf files, as sandboxes get to see them."""

from __future__ import annotations

import os
from typing import Final

from sandnet.model.resolv_conf import ResolvConf, parsed

HOSTS: Final = "/etc/hosts"
RESOLV_CONF: Final = "/etc/resolv.conf"
RESOLVED_STUB: Final = "127.0.0.53"
RESOLVED_REAL: Final = "/run/systemd/resolve/resolv.conf"
_MOST: Final = 1 << 20
"""Bytes read of a file."""


class HostView:
    """Reads them; on worker threads."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] = ()
        self._resolv_conf = ResolvConf()

    def fingerprint(self) -> tuple[int, ...]:
        """What changes whenever a file is written, replaced by another one, or its symlink leads elsewhere."""
        return _fingerprint(HOSTS) + _fingerprint(RESOLV_CONF) + _fingerprint(RESOLVED_REAL)

    def has_hosts(self) -> bool:
        """Whether there is a hosts file now. One that is being replaced may be gone for a moment."""
        return os.path.exists(HOSTS)

    def has_resolv_conf(self) -> bool:
        """Whether there is a resolv.conf now."""
        return os.path.exists(RESOLV_CONF)

    def hosts(self) -> bytes:
        """The hosts file; empty: there is none."""
        return _read(HOSTS)

    def resolv_conf_file(self) -> bytes:
        """The resolv.conf; empty: there is none."""
        return _read(RESOLV_CONF)

    def resolv_conf(self) -> ResolvConf:
        """What the resolv.conf says."""
        seen = _fingerprint(RESOLV_CONF)
        if seen != self._seen or not seen:
            self._resolv_conf = _parsed(RESOLV_CONF)
            self._seen = seen
        return self._resolv_conf

    def reachable(self) -> ResolvConf:
        """The same for who does not share the host's loopback: where it only names systemd-resolved's stub, the file
        with the servers behind it."""
        found = self.resolv_conf()
        if [str(server) for server in found.servers] != [RESOLVED_STUB]:
            return found
        real = _parsed(RESOLVED_REAL)
        return real if real.servers else found


def _fingerprint(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _parsed(path: str) -> ResolvConf:
    return parsed(_read(path).decode(errors="replace"))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST)
    except OSError:
        return b""
