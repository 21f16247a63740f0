"""Descriptors below 1,024, for a library that waits with select(2).

An ``fd_set`` has room for the descriptors 0 to 1,023 (``FD_SETSIZE``, select(2)); at a higher one glibc aborts the
process. The kernel assigns the lowest free number. So numbers are reserved while low ones are free, and one is released
at the moment in which the library opens its own descriptor.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from sandnet.errors import Error, Kind

T = TypeVar("T")

LIMIT: Final = 1024
RESERVED: Final = 2
"""One library context that stays, and one that probes the kernel's features."""
_TRIES: Final = 100


class LowDescriptors:
    """Descriptor numbers reserved for one kind of socket. Safe to use from several threads."""

    def __init__(self, family: int, protocol: int, send_buffer: int = 0) -> None:
        """Reserve nothing yet.

        Args:
            family: of the sockets that :meth:`open` makes.
            protocol: of these sockets.
            send_buffer: bytes that such a socket can send at once, at most ``net.core.wmem_max``; 0: the host's
                default.
        """
        self._kind = family, protocol
        self._send_buffer = send_buffer
        self._lock = threading.Lock()
        self._held: list[int] = []

    def reserve(self, *, insist: bool = False) -> None:
        """Reserve :data:`RESERVED` numbers, as far as low ones are free.

        Args:
            insist: where none is free, take one that this process inherited. Only right at the start of a process, when
                no descriptor of its own can have a low number yet.
        """
        with self._lock:
            while len(self._held) < RESERVED and (number := _low_number()) is not None:
                self._held.append(number)
            while insist and len(self._held) < RESERVED:
                self._held.append(_replaced(LIMIT - 1 - len(self._held)))

    def open(self, opener: Callable[[], T], discard: Callable[[T], None]) -> T:
        """Call the opener and return its result; the one socket that it opened has a number below :data:`LIMIT`.

        Args:
            opener: opens a single descriptor, a socket.
            discard: closes it again; called where another thread got the number.

        Raises:
            Error: ``UNAVAILABLE``, code ``descriptors_exhausted``: no low number is available.
        """
        with self._lock:
            for _ in range(_TRIES):
                number = self._held.pop() if self._held else _low_number()
                if number is None:
                    break
                os.close(number)
                made = opener()
                if self._is_ours_or_free(number):
                    self._set_send_buffers(number)
                    return made
                discard(made)
        hint = "restart the daemon; it holds fewer descriptors then"
        message = f"nftables: no descriptor below {LIMIT} is free"
        raise Error(Kind.UNAVAILABLE, message, hint, "descriptors_exhausted")

    def _is_ours_or_free(self, number: int) -> bool:
        """Return whether no other thread has the number. It is free where an even lower number was free."""
        try:
            os.fstat(number)
        except OSError:
            return True
        return self._is_ours(number)

    def _is_ours(self, number: int) -> bool:
        """Return whether the descriptor is a socket of this kind, and set its send buffer if so."""
        try:
            copy = os.dup(number)
        except OSError:
            return False
        try:
            found = socket.socket(fileno=copy)
        except OSError:  # it is no socket
            os.close(copy)
            return False
        with found:
            ours = (found.family, found.proto) == self._kind
            if ours and self._send_buffer:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
            return ours

    def _set_send_buffers(self, highest: int) -> None:
        """Set the send buffer of sockets of this kind that have this number or a lower one."""
        numbers = map(int, os.listdir("/proc/self/fd")) if self._send_buffer else ()
        for number in numbers:
            if number <= highest:
                self._is_ours(number)


def _low_number() -> int | None:
    with suppress(OSError):
        number = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if number < LIMIT:
            return number
        os.close(number)
    return None


def _replaced(number: int) -> int:
    source = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.dup2(source, number, inheritable=False)
    finally:
        os.close(source)
