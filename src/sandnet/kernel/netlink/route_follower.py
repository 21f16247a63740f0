"""Follows which source addresses the host's routes prefer: reads them again after notifications of relevant changes."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from sandnet.kernel.netlink.notifications import subscribed
from sandnet.kernel.netlink.route_sources import Path, differing_sources, dump_own_addresses, dump_paths, paths_of
from sandnet.kernel.netlink.rtnetlink import index_of_address, index_of_link
from sandnet.kernel.netlink.socket import Netlink, Reply, map_errors, replies
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from sandnet.kernel.netlink.uapi.route_numbers import RTPROT_KERNEL
from sandnet.kernel.types import RouteSource

_BACKLOG: Final = 4 << 20
"""Bytes of unread notifications; beyond that all is read again."""
_BUFFER: Final = 1 << 16
_MOST: Final = 2_000
"""Datagrams that one scan takes; the rest waits for the next."""
_MIN_INTERVAL: Final = 20.0
"""Duty cycle: seconds without reading for each second of reading. A host whose many routes change all day must not keep
us reading."""
_UNSPELLABLE: Final = frozenset('"\\*')
"""Characters of a link's name that have another meaning in nft scripts."""


class RouteFollower:
    """Follows the network namespace in which the first call was made. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notifications: socket.socket | None = None
        self._relevant_links: set[int] = set()
        """Links of the routes with a preferred source."""
        self._sources: Sequence[RouteSource] = ()
        self._stale = False
        self._read_at = 0.0

    def sources(self) -> Sequence[RouteSource]:
        """See :meth:`sandnet.kernel.base.Host.route_sources`.

        Raises:
            Error: ``UNAVAILABLE`` the kernel refuses.
        """
        with self._lock, map_errors("read the sources that routes prefer"):
            if self._notifications is None:
                self._subscribe()
            elif self._changed(self._notifications):
                self._stale = True
            if self._stale and time.monotonic() >= self._read_at:
                self._read()
            return self._sources

    def close(self) -> None:
        """Stop following; a later call starts again."""
        with self._lock:
            if self._notifications is not None:
                self._notifications.close()
            self._notifications = None

    def _subscribe(self) -> None:
        """Subscribe before the first read: so no change between the two is missed."""
        self._notifications = subscribed(_BACKLOG)
        self._stale, self._read_at = True, 0.0

    def _read(self) -> None:
        began = time.monotonic()
        with Netlink() as netlink:
            paths = [*dump_paths(netlink)]
            own = [*dump_own_addresses(netlink)]
        self._relevant_links = {path.link for path in paths if _prefers(path)}
        names = {link: name for link in {path.link for path in paths if path.source} if (name := _name(link))}
        self._sources = differing_sources(paths, own, names)
        self._stale = False
        now = time.monotonic()
        self._read_at = now + (now - began) * _MIN_INTERVAL

    def _changed(self, subscription: socket.socket) -> bool:
        changed = False
        try:
            for reply in _received(subscription):
                changed = changed or self._matters(reply)
        except OSError as failure:
            if failure.errno != errno.ENOBUFS:
                raise
            changed = True
        return changed

    def _matters(self, reply: Reply) -> bool:
        if reply.kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return any(_prefers(path) or path.link in self._relevant_links for path in paths_of(reply.body))
        if reply.kind in (RTM_NEWADDR, RTM_DELADDR):
            return index_of_address(reply.body) in self._relevant_links
        # IPv4 routes are removed with their link, without a notification
        return reply.kind in (RTM_NEWLINK, RTM_DELLINK) and index_of_link(reply.body) in self._relevant_links


def _prefers(path: Path) -> bool:
    return bool(path.source) and path.protocol != RTPROT_KERNEL


def _name(link: int) -> str:
    """Return the name as scripts may spell it; empty: the link was deleted, or its name cannot be spelled."""
    try:
        name = socket.if_indextoname(link)
    except OSError:
        return ""
    return "" if _UNSPELLABLE & {*name} else name


def _received(subscription: socket.socket) -> Iterator[Reply]:
    for _ in range(_MOST):
        try:
            data, (port, _groups) = subscription.recvfrom(_BUFFER)
        except BlockingIOError:
            return
        if port == 0:  # any process may write to a netlink socket; only the kernel's messages count
            yield from replies(data)
