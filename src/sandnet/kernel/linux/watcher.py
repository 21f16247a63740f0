"""What changes on the host and in sandboxes, as the kernel tells it: one socket for the host, one for all sandboxes.

A netlink socket with ``NETLINK_LISTEN_ALL_NSID`` (netlink(7)) hears of every namespace that has a number in ours, and
the kernel numbers a namespace when a veth pair leads there. So a thousand sandboxes cost one socket. The host has a
socket of its own: a sandbox that changes its own links and routes all day fills the other one only. Nobody is woken by
news: they gather in the socket until somebody reads, and a burst of joins costs the reader what is left of it.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from sandnet.kernel.base import Firewall
from sandnet.kernel.netlink.notifications import FORWARDING, LISTEN_ALL_NSID, RULES, subscribed
from sandnet.kernel.netlink.routes import index_of_route
from sandnet.kernel.netlink.rtnetlink import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNETCONF,
    RTM_NEWROUTE,
    dump_ports,
    index_of_address,
    index_of_link,
    index_of_netconf,
    to_port,
)
from sandnet.kernel.netlink.socket import Netlink, Reply, map_errors, replies
from sandnet.kernel.types import Changes, Port

_BACKLOG: Final = 16 << 20
"""Bytes of unread news the kernel keeps for us: a thousand joins."""
_BUFFER: Final = 1 << 16
_MOST: Final = 20_000
"""Messages that one reading of a socket takes: about what the backlog holds, and a tenth of a second. Who may change
links or routes of a sandbox can write as fast as we read, and must not keep us reading."""
_NUMBER: Final = struct.Struct("=i")
_HERE: Final = -1
_LOST: Final = (RTM_DELADDR, RTM_DELROUTE, RTM_NEWNETCONF)
_POORER: Final = (RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE, RTM_DELRULE)
_MOVED: Final = {
    RTM_NEWADDR: index_of_address,
    RTM_NEWROUTE: index_of_route,
    RTM_DELADDR: index_of_address,
    RTM_DELROUTE: index_of_route,
    RTM_NEWNETCONF: index_of_netconf,
}
"""Addresses and routes that come and go, and links that begin or cease to forward: how to tell which link it is."""
_MOUNTS: Final = "/proc/self/mountinfo"


class LinuxWatcher:
    """The real :class:`sandnet.kernel.observation.Watcher`, of the namespace in which the first call is made."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._host: socket.socket | None = None
        """Hears of the host."""
        self._sandboxes: socket.socket | None = None
        """Hears of the host too, which is passed over."""
        self._mounts: select.poll | None = None
        self._table: BinaryIO | None = None
        self._names: dict[int, str] = {}
        """The host's links by index."""
        self._namespaces: dict[str, int] = {}
        """By link of the host: number of the namespace of its other end."""

    def read(self) -> Changes:
        """See :meth:`sandnet.kernel.observation.Watcher.read`.

        Raises:
            Error: ``UNAVAILABLE`` the kernel will not tell.
        """
        with map_errors("hear of changes"):
            mounts, rules = self._mounts_changed(), self._firewall.foreign_generation() != 0
            if self._host is None or self._sandboxes is None:
                self._begin()
                return _nothing(rules=rules, missed=False)
            try:
                heard = [*self._receive(self._host)]
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                self._begin()
                return _nothing(rules=True, missed=True)
            inner, missed = self._receive_inside(self._sandboxes)
            return self._summarise([*heard, *inner], mounts=mounts, rules=rules, missed=missed)

    def namespaces(self) -> Mapping[str, int]:
        """See :meth:`sandnet.kernel.observation.Watcher.namespaces`."""
        return self._namespaces

    def name(self, index: int) -> str:
        """See :meth:`sandnet.kernel.observation.Watcher.name`."""
        return self._names.get(index, "")

    def close(self) -> None:
        """Give the sockets back; a later :meth:`read` begins anew."""
        for each in (self._host, self._sandboxes, self._table):
            if each is not None:
                each.close()
        self._host, self._sandboxes, self._table, self._mounts = None, None, None, None

    def _begin(self) -> None:
        """Subscribe first, then see what there is: nothing falls in between."""
        for each in (self._host, self._sandboxes):
            if each is not None:
                each.close()
        self._host = subscribed(_BACKLOG, also=FORWARDING)
        self._sandboxes = subscribed(_BACKLOG, also=RULES, all_namespaces=True)
        with Netlink() as netlink:
            ports = [*dump_ports(netlink)]
        self._names = {port.link.ifindex: port.link.name for port in ports}
        self._namespaces = {port.link.name: port.peer_namespace for port in ports if port.peer_namespace >= 0}

    def _receive(self, news: socket.socket) -> Iterator[tuple[int, Reply]]:
        """What has gathered: number of the namespace, and the message."""
        for _ in range(_MOST):
            try:
                data, ancillary, _flags, (port, _groups) = news.recvmsg(_BUFFER, 64)
            except BlockingIOError:
                return
            if port == 0:  # any process may write to a netlink socket; only the kernel is heard
                numbers = (_NUMBER.unpack_from(told)[0] for _, kind, told in ancillary if kind == LISTEN_ALL_NSID)
                where = next(numbers, _HERE)
                yield from ((where, reply) for reply in replies(data))

    def _receive_inside(self, news: socket.socket) -> tuple[list[tuple[int, Reply]], bool]:
        """What has gathered of sandboxes, and whether some of it was lost."""
        try:
            return [(where, reply) for where, reply in self._receive(news) if where != _HERE], False
        except OSError as failure:
            if failure.errno != errno.ENOBUFS:
                raise
        news.close()
        self._sandboxes = subscribed(_BACKLOG, also=RULES, all_namespaces=True)
        return [], True

    def _summarise(self, heard: list[tuple[int, Reply]], *, mounts: bool, rules: bool, missed: bool) -> Changes:
        latest: dict[tuple[int, int], bytes] = {}
        gone: set[str] = set()
        lost: set[int] = set()
        grown: set[int] = set()
        poorer: set[int] = set()
        deleted: set[int] = set()
        for where, reply in heard:
            if reply.kind in (RTM_NEWLINK, RTM_DELLINK) and reply.body[0] == socket.AF_BRIDGE:
                continue  # of a port of a bridge; what it tells, the message of the link itself tells too
            if reply.kind == RTM_NEWLINK:
                latest[where, index_of_link(reply.body)] = reply.body
            elif where != _HERE and reply.kind in _POORER:
                poorer.add(where)
            elif reply.kind == RTM_DELLINK:
                gone.add(to_port(reply.body).link.name)
                deleted.add(index_of_link(reply.body))
                latest.pop((where, index_of_link(reply.body)), None)
            elif where == _HERE and reply.kind in _MOVED:
                (lost if reply.kind in _LOST else grown).add(_MOVED[reply.kind](reply.body))
        links = {key: to_port(body) for key, body in latest.items()}
        inner: dict[int, list[Port]] = {}
        for (where, _), port in links.items():
            if where != _HERE:
                inner.setdefault(where, []).append(port)
        here = {port.link.name: port for (where, _), port in links.items() if where == _HERE}
        self._remember(here, gone)
        touched = frozenset(name for index in lost if (name := self._names.get(index)))
        richer = frozenset(self._names.get(index, "") for index in grown)
        for index in deleted - {port.link.ifindex for port in here.values()}:
            self._names.pop(index, None)
        return Changes(
            here, frozenset(gone), touched, richer, inner, frozenset(poorer), mounts=mounts, rules=rules, missed=missed
        )

    def _remember(self, here: Mapping[str, Port], gone: set[str]) -> None:
        for name in gone - here.keys():
            self._namespaces.pop(name, None)
        for name, port in here.items():
            self._names[port.link.ifindex] = name
            if port.peer_namespace >= 0:
                self._namespaces[name] = port.peer_namespace

    def _mounts_changed(self) -> bool:
        """Whether the table of mounts changed since the last call (proc(5): it can be polled)."""
        if self._mounts is None:
            self._table = open(_MOUNTS, "rb")  # noqa: SIM115 - open as long as we watch
            self._mounts = select.poll()
            self._mounts.register(self._table, select.POLLPRI | select.POLLERR)
        return bool(self._mounts.poll(0))


def _nothing(*, rules: bool, missed: bool) -> Changes:
    """No news but that it begins."""
    names, numbers = frozenset[str](), frozenset[int]()
    return Changes({}, names, names, names, {}, numbers, mounts=True, rules=rules, missed=missed)
