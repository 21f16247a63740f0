"""The host's own hosts and resolv.conf files, as the source for those of sandboxes."""

from __future__ import annotations

import os
from typing import Final

from sandnet.model.resolv_conf import RESOLV_CONF, ResolvConf, parsed

HOSTS: Final = "/etc/hosts"
RESOLVED_STUB: Final = "127.0.0.53"
RESOLVED_REAL: Final = "/run/systemd/resolve/resolv.conf"
_MAX_READ: Final = 1 << 20
"""Bytes read of a file."""


class HostView:
    """Reads these files; on worker threads."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] = ()
        self._resolv_conf = ResolvConf()

    def fingerprint(self) -> tuple[int, ...]:
        """Return a value that changes whenever a file is written or replaced, or its symlink leads to another one."""
        return _fingerprint(HOSTS) + _fingerprint(RESOLV_CONF) + _fingerprint(RESOLVED_REAL)

    def has_hosts(self) -> bool:
        """Return whether there is a hosts file now. One that is being replaced may be absent for a moment."""
        return os.path.exists(HOSTS)

    def has_resolv_conf(self) -> bool:
        """Return whether there is a resolv.conf now."""
        return os.path.exists(RESOLV_CONF)

    def hosts(self) -> bytes:
        """Return the hosts file; empty if there is none."""
        return _read(HOSTS)

    def resolv_conf_file(self) -> bytes:
        """Return the resolv.conf; empty if there is none."""
        return _read(RESOLV_CONF)

    def resolv_conf(self) -> ResolvConf:
        """Return the settings in the resolv.conf."""
        seen = _fingerprint(RESOLV_CONF)
        if seen != self._seen or not seen:
            self._resolv_conf = _parsed(RESOLV_CONF)
            self._seen = seen
        return self._resolv_conf

    def reachable(self) -> ResolvConf:
        """Return the settings for a sandbox that does not share the host's loopback.

        If the resolv.conf only names systemd-resolved's stub, these are the ones of the file with the servers behind
        it.
        """
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
            return file.read(_MAX_READ)
    except OSError:
        return b""
