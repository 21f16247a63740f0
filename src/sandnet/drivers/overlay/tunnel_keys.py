"""The keys of this host's tunnel, in a file that only root can read, and their change after a period.

A key is changed in two steps, so that hardly a packet is lost: the next key is published first, and the other hosts
accept it beside the present one. Only then it is used, and they send to the address that belongs to it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import msgspec

from sandnet.errors import Error
from sandnet.kernel.safe_files import Files
from sandnet.kernel.wireguard.base import PrivateKey, Tunnels

_log = logging.getLogger(__name__)

NOTICE: Final = 20.0
"""Seconds from the publication of a key to its use: longer than the lease of a host that has not read it."""
_MODE: Final = 0o600
_SPREAD: Final = 0.1
"""Share of the period by which hosts differ, so that they do not all change their keys at once."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    key: str
    since: float
    """When it came into use, in seconds since the epoch."""
    next: str = ""
    former: str = ""
    """The public half of the key before."""


class KeyPair(NamedTuple):
    """A key, and its public half."""

    private: PrivateKey
    public: str


class TunnelKeys:
    """The keys of this host. All methods do I/O and run on worker threads.

    Args:
        tunnels: makes keys.
        files: reads and writes the file.
        path: of the file.
        period: seconds for which a key is used.
        clock: seconds since the epoch.
        stopwatch: seconds since any time.
    """

    def __init__(
        self,
        tunnels: Tunnels,
        files: Files,
        path: str,
        period: float,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tunnels, self._files, self._path, self._period = tunnels, files, path, period
        self._clock, self._stopwatch = clock, stopwatch
        self._lock = threading.Lock()
        self._stored: _Stored | None = None
        self._known: dict[str, str] = {}
        """Public keys by private ones."""
        self._published_since: float | None = None
        """Since when the next key is known to be published, by the stopwatch."""

    @property
    def current(self) -> KeyPair:
        """The key in use; the first one is made at once.

        Raises:
            Error: it can neither be read nor made and written.
        """
        return self._pair(self._loaded().key)

    @property
    def former(self) -> str:
        """The public half of the key that was used before; empty: there was none."""
        return self._loaded().former

    def in_use(self) -> tuple[KeyPair, str]:
        """Return :attr:`current` and :attr:`former` of one moment."""
        with self._lock:
            return self.current, self.former

    def announce(self, published: Collection[str]) -> tuple[bool, tuple[str, ...]]:
        """Do as :meth:`advance`, and return :attr:`public` as well."""
        with self._lock:
            return self.advance(published), self.public

    @property
    def public(self) -> tuple[str, ...]:
        """The public keys that other hosts must accept, the one in use first."""
        stored = self._loaded()
        return tuple(self._pair(key).public for key in (stored.key, stored.next) if key)

    def advance(self, published: Collection[str]) -> bool:
        """Take the next step of a change of keys if it is due; return whether another key is in use now.

        Args:
            published: the public keys of this host that the other hosts can read.

        Raises:
            Error: the file cannot be written; then nothing has changed.
        """
        stored = self._loaded()
        self._keep_file(stored)
        if not stored.next:
            if self._is_due(stored):
                self._write(msgspec.structs.replace(stored, next=str(self._tunnels.new_key())))
            return False
        if self._pair(stored.next).public not in published:
            self._published_since = None
            return False
        if self._published_since is None:
            self._published_since = self._stopwatch()
        if self._stopwatch() - self._published_since < NOTICE:
            return False
        self._write(_Stored(key=stored.next, since=self._clock(), former=self._pair(stored.key).public))
        self._published_since = None
        return True

    def _is_due(self, stored: _Stored) -> bool:
        """Return whether the period is over; a clock that was set back counts as that too."""
        digest = hashlib.blake2s(stored.key.encode(), digest_size=2).digest()
        share = int.from_bytes(digest, "big") / 0xFFFF
        return not 0 <= self._clock() - stored.since < self._period * (1 - _SPREAD * share)

    def _pair(self, key: str) -> KeyPair:
        private = PrivateKey(key)
        if key not in self._known:
            self._known[key] = self._tunnels.public_key(private)
        return KeyPair(private, self._known[key])

    def _loaded(self) -> _Stored:
        if self._stored is None:
            self._stored = self._read()
        if self._stored is None:
            self._write(_Stored(key=str(self._tunnels.new_key()), since=self._clock()))
        assert self._stored is not None  # noqa: S101 - written just now
        return self._stored

    def _read(self) -> _Stored | None:
        content = self._files.read(self._path)
        if content is None:
            return None
        try:
            stored = msgspec.json.decode(content, type=_Stored)
            for key in filter(None, (stored.key, stored.next)):
                self._pair(key)
        except (msgspec.DecodeError, Error) as failure:
            _log.warning("%s is damaged (%s): this host gets another key", self._path, failure)
            return None
        return stored

    def _keep_file(self, stored: _Stored) -> None:
        """Write the file again if another program removed or changed it: the next start would have other keys."""
        if self._files.read(self._path) != _encoded(stored):
            _log.warning("%s was removed or changed: it is written again", self._path)
            self._write(stored)

    def _write(self, stored: _Stored) -> None:
        for key in filter(None, (stored.key, stored.next)):
            self._pair(key)
        self._files.write(self._path, _encoded(stored), _MODE)
        self._stored = stored


def _encoded(stored: _Stored) -> bytes:
    return msgspec.json.encode(stored) + b"\n"
