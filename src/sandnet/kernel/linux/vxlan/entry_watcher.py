"""Receives the kernel's notifications about static forwarding entries and neighbours."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Final

from sandnet.kernel.linux.vxlan.peer_entries import FoundEntry, entry_of
from sandnet.kernel.netlink.notifications import subscribed_to_neighbours
from sandnet.kernel.netlink.socket import Reply, replies
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELNEIGH
from sandnet.kernel.vxlan.base import NO_ENTRIES, EntryChanges, PeerEntries

_BACKLOG: Final = 1 << 20
"""Bytes of unread notifications: some hundred changes. After more, everything is compared."""
_BUFFER: Final = 1 << 15
_MOST: Final = 10_000
"""Datagrams that one call reads: a program that changes entries all day must not keep a worker busy."""


class EntryWatcher:
    """A subscription of the namespace of the first call. Callers serialize their calls."""

    def __init__(self) -> None:
        self._subscription: socket.socket | None = None

    def read(self) -> EntryChanges:
        """Return what changed since the last call; see :meth:`sandnet.kernel.vxlan.base.VxlanPorts.changed`.

        Raises:
            OSError: the kernel refuses.
        """
        if self._subscription is None:
            self._subscription = subscribed_to_neighbours(_BACKLOG)
            return EntryChanges({}, {}, missed=True)
        latest: dict[tuple[int, object], tuple[bool, FoundEntry]] = {}
        try:
            for reply in _received(self._subscription):
                entry = entry_of(reply.body)
                if entry:
                    latest[entry.link, _identity(entry.entries)] = (reply.kind == RTM_DELNEIGH, entry)
        except OSError as failure:
            if failure.errno != errno.ENOBUFS:
                raise
            self.close()
            return EntryChanges({}, {}, missed=True)
        return _summary(latest)

    def close(self) -> None:
        """Close the socket; a later :meth:`read` subscribes again."""
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = None


def _received(subscription: socket.socket) -> Iterator[Reply]:
    for _ in range(_MOST):
        try:
            data, (port, _groups) = subscription.recvfrom(_BUFFER)
        except BlockingIOError:
            return
        if port == 0:  # any process may write to a netlink socket; only the kernel's messages count
            yield from replies(data)


def _identity(entries: PeerEntries) -> object:
    """Return what identifies an entry among those of its link: a neighbour's address, or a MAC and its kind."""
    if entries.neighbours:
        ((address, _mac),) = entries.neighbours
        return address
    return entries


def _summary(latest: dict[tuple[int, object], tuple[bool, FoundEntry]]) -> EntryChanges:
    present: dict[str, PeerEntries] = {}
    deleted: dict[str, PeerEntries] = {}
    names: dict[int, str] = {}
    for gone, entry in latest.values():
        if entry.link not in names:
            names[entry.link] = _name(entry.link)
        into = deleted if gone or not entry.static else present
        into[names[entry.link]] = into.get(names[entry.link], NO_ENTRIES).joined(entry.entries)
    present.pop("", None)
    deleted.pop("", None)
    return EntryChanges(present, deleted, missed=False)


def _name(index: int) -> str:
    """Return the name of a link; empty: it was deleted."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
