"""A netlink socket that all threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from sandnet.kernel.netlink.socket import Netlink

N = TypeVar("N", bound=Netlink)


class SharedSocket(Generic[N]):
    """One socket for all threads, behind a lock, of the namespace where it was first used.

    For ``NETLINK_NETFILTER``: closing such a socket takes 15 to 20 ms after a change of the rules. During this time no
    other process can change them, as nf_tables waits for a grace period each time (``nft_rcv_nl_event``).
    """

    def __init__(self, make: Callable[[], N]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._socket: N | None = None

    @contextmanager
    def used(self) -> Iterator[N]:
        """Yield the socket. When the block fails, half a reply may be left in it, so the next caller gets a new one."""
        with self._lock:
            try:
                self._socket = self._socket or self._make()
                yield self._socket
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Close the socket; a later use opens a new one."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        kept, self._socket = self._socket, None
        if kept:
            kept.close()
