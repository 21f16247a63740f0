"""Follows which prefixes are in use on the host: its routing tables and addresses.

They are read once. From then on the kernel notifies us of changes (rtnetlink(7)), and a call applies the notifications
since the last. With 1,000 bridges a host has 3,000 routes, and reading those for every new network would take longer
than making it.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Collection, Sequence
from typing import Final

from sandnet.kernel.netlink.notifications import subscribed
from sandnet.kernel.netlink.prefix_table import PrefixTable
from sandnet.kernel.netlink.socket import Netlink, map_errors, replies, u32
from sandnet.kernel.netlink.uapi.address_numbers import IFADDRMSG
from sandnet.kernel.netlink.uapi.link_numbers import IFINFOMSG, IFLA_EXT_MASK
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from sandnet.kernel.netlink.uapi.route_numbers import RTMSG
from sandnet.model.address import Prefix

_BACKLOG: Final = 8 << 20
"""Bytes of unread notifications the kernel keeps for us, some thousand changes. Beyond that all is read again."""
_BUFFER: Final = 1 << 16
_REQUESTS: Final = (
    (RTM_GETLINK, RTM_NEWLINK, IFINFOMSG.pack(0, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)),
    (RTM_GETADDR, RTM_NEWADDR, IFADDRMSG.pack(0, 0, 0, 0, 0)),
    (RTM_GETROUTE, RTM_NEWROUTE, RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)),
)
_READS: Final = 5
"""How often all is read again within one call before the incomplete state has to suffice."""


class OccupiedPrefixes:
    """Follows the network namespace in which the first call was made. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notifications: socket.socket | None = None
        self._known = PrefixTable()

    def prefixes(self, ignore: Collection[str] = ()) -> Sequence[Prefix]:
        """Return routes and addresses as they are now, without those on the links named in ``ignore``.

        One prefix may occur several times (an address, and its connected route). The kernel reports a new IPv6 address
        some milliseconds late, everything else at once.

        Raises:
            Error: the kernel refuses.
        """
        with self._lock, map_errors("read the host's routes"):
            try:
                self._refresh()
            except OSError:
                self._stop()
                raise
            return self._known.outside(ignore)

    def close(self) -> None:
        """Stop following; a later call reads all again."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._notifications is not None:
            self._notifications.close()
        self._notifications = None

    def _refresh(self) -> None:
        """Apply the notifications. To read all: subscribe first, list, then apply the changes during the list."""
        if self._notifications is not None and self._catch_up(self._notifications):
            return
        for _ in range(_READS):
            self._stop()
            self._notifications = subscribed(_BACKLOG)
            self._known = _listed()
            if self._catch_up(self._notifications):
                return

    def _catch_up(self, subscription: socket.socket) -> bool:
        """Return whether all changes are known now; not when some notifications were dropped."""
        while True:
            try:
                data, (port, _groups) = subscription.recvfrom(_BUFFER)
            except BlockingIOError:
                return self._known.is_conclusive()
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return False
                raise
            if port == 0:  # any process may write to a netlink socket; only the kernel's messages count
                for reply in replies(data):
                    self._known.apply(reply.kind, reply.flags, reply.body)


def _listed() -> PrefixTable:
    known = PrefixTable()
    with Netlink() as netlink:
        for request, kind, body in _REQUESTS:
            for answer in netlink.dump(request, body):
                known.apply(kind, 0, answer)
    return known
