"""Follows changes on the host and in sandboxes: one notification socket for the host, one for all sandboxes.

A netlink socket with ``NETLINK_LISTEN_ALL_NSID`` (netlink(7)) receives the notifications of every namespace that has a
number in ours. The kernel numbers a namespace when a veth pair leads there. So a thousand sandboxes cost one socket.
The host has a socket of its own: a sandbox that changes its own links and routes all day fills the other one only.
Notifications wake no one: they gather in the socket until the next read. After a burst of joins the reader processes
only the final states.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, Final

from sandnet.kernel.base import Firewall
from sandnet.kernel.linux.shaping.traffic_control import index_of_traffic_control
from sandnet.kernel.netlink.notifications import FORWARDING, LISTEN_ALL_NSID, RULES, TRAFFIC_CONTROL, subscribed
from sandnet.kernel.netlink.routes import index_of_route
from sandnet.kernel.netlink.rtnetlink import (
    dump_ports,
    index_of_address,
    index_of_link,
    index_of_netconf,
    name_of_link,
    to_port,
)
from sandnet.kernel.netlink.socket import Netlink, Reply, map_errors, replies
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELQDISC,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_DELTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNETCONF,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from sandnet.kernel.types import Changes, Port
from sandnet.model.link_names import OUR_LINKS, OWN_PREFIXES

_BACKLOG: Final = 16 << 20
"""Bytes of unread notifications the kernel keeps for us: a thousand joins."""
_BUFFER: Final = 1 << 16
_MOST: Final = 20_000
"""Messages that one read of a socket takes: about what the backlog holds, and a tenth of a second. A program that may
change links or routes of a sandbox can write as fast as we read, and must not keep us reading."""
_NUMBER: Final = struct.Struct("=i")
_HERE: Final = -1
_TRAFFIC_CONTROL: Final = (RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER)
_REDUCED: Final = (RTM_DELADDR, RTM_DELROUTE, RTM_NEWNETCONF, *_TRAFFIC_CONTROL)
_REDUCED_INSIDE: Final = (RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE, RTM_DELRULE)
_LINK_INDEX: Final = {
    RTM_NEWADDR: index_of_address,
    RTM_NEWROUTE: index_of_route,
    RTM_DELADDR: index_of_address,
    RTM_DELROUTE: index_of_route,
    RTM_NEWNETCONF: index_of_netconf,
    **dict.fromkeys(_TRAFFIC_CONTROL, index_of_traffic_control),
}
"""How to find the link of each notification about an address, a route, forwarding or a limit of traffic."""
_HOST_KINDS: Final = (RTM_NEWLINK, RTM_DELLINK, *_LINK_INDEX)
_MOUNTS: Final = "/proc/self/mountinfo"


class LinuxWatcher:
    """The Linux implementation of :class:`sandnet.kernel.observation.Watcher`, for the namespace of the first call."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._host: socket.socket | None = None
        """Receives notifications of the host."""
        self._sandboxes: socket.socket | None = None
        """Receives notifications of sandboxes, and of the host too, which are skipped."""
        self._mounts: select.poll | None = None
        self._table: BinaryIO | None = None
        self._names: dict[int, str] = {}
        """The host's links by index."""
        self._namespaces: dict[str, int] = {}
        """By link of the host: number of the namespace of its other end."""
        self._links_into: dict[int, set[str]] = {}
        """The same by the number."""

    def read(self) -> Changes:
        """See :meth:`sandnet.kernel.observation.Watcher.read`.

        Raises:
            Error: ``UNAVAILABLE`` the kernel refuses.
        """
        with map_errors("read notifications of changes"):
            mounts, rules = self._mounts_changed(), self._firewall.foreign_generation() != 0
            if self._host is None or self._sandboxes is None:
                self._subscribe()
                return _without_changes(rules=rules, missed=False)
            try:
                received = [*self._receive(self._host)]
            except OSError as failure:
                if failure.errno != errno.ENOBUFS:
                    raise
                self._subscribe()
                return _without_changes(rules=True, missed=True)
            inner, missed = self._receive_inside(self._sandboxes)
            return self._summarise([*received, *inner], mounts=mounts, rules=rules, missed=missed)

    def links_into(self, namespace: int) -> Collection[str]:
        """See :meth:`sandnet.kernel.observation.Watcher.links_into`."""
        return self._links_into.get(namespace, ())

    def name(self, index: int) -> str:
        """See :meth:`sandnet.kernel.observation.Watcher.name`."""
        return self._names.get(index, "")

    def close(self) -> None:
        """Close the sockets; a later :meth:`read` subscribes again."""
        for each in (self._host, self._sandboxes, self._table):
            if each is not None:
                each.close()
        self._host, self._sandboxes, self._table, self._mounts = None, None, None, None

    def _subscribe(self) -> None:
        """Subscribe first, then list the links: so no change between the two is missed."""
        for each in (self._host, self._sandboxes):
            if each is not None:
                each.close()
        self._host = subscribed(_BACKLOG, _HOST_KINDS, also=(*FORWARDING, *TRAFFIC_CONTROL))
        self._sandboxes = _subscribed_inside()
        with Netlink() as netlink:
            ports = [*dump_ports(netlink)]
        self._names = {port.link.ifindex: port.link.name for port in ports}
        self._namespaces, self._links_into = {}, {}
        for port in ports:
            self._remember_namespace(port)

    def _receive(self, subscription: socket.socket) -> Iterator[tuple[int, Reply]]:
        """Yield the gathered notifications: number of the namespace, and the message."""
        for _ in range(_MOST):
            try:
                data, ancillary, _flags, (port, _groups) = subscription.recvmsg(_BUFFER, 64)
            except BlockingIOError:
                return
            if port == 0:  # any process may write to a netlink socket; only the kernel's messages count
                numbers = (_NUMBER.unpack_from(payload)[0] for _, kind, payload in ancillary if kind == LISTEN_ALL_NSID)
                where = next(numbers, _HERE)
                yield from ((where, reply) for reply in replies(data))

    def _receive_inside(self, subscription: socket.socket) -> tuple[list[tuple[int, Reply]], bool]:
        """Return the gathered notifications of sandboxes, and whether some of them were lost."""
        try:
            return [(where, reply) for where, reply in self._receive(subscription) if where != _HERE], False
        except OSError as failure:
            if failure.errno != errno.ENOBUFS:
                raise
        subscription.close()
        self._sandboxes = _subscribed_inside()
        return [], True

    def _summarise(self, received: list[tuple[int, Reply]], *, mounts: bool, rules: bool, missed: bool) -> Changes:
        latest: dict[tuple[int, int], bytes] = {}
        deleted_names: set[str] = set()
        reduced: set[int] = set()
        extended: set[int] = set()
        reduced_namespaces: set[int] = set()
        deleted_indexes: set[int] = set()
        for where, reply in received:
            if self._repeats(where, reply, latest):
                continue
            if reply.kind == RTM_NEWLINK:
                latest[where, index_of_link(reply.body)] = reply.body
            elif where != _HERE and reply.kind in _REDUCED_INSIDE:
                reduced_namespaces.add(where)
            elif reply.kind == RTM_DELLINK:
                deleted_names.add(name_of_link(reply.body))
                deleted_indexes.add(index_of_link(reply.body))
                latest.pop((where, index_of_link(reply.body)), None)
            elif where == _HERE and reply.kind in _LINK_INDEX:
                (reduced if reply.kind in _REDUCED else extended).add(_LINK_INDEX[reply.kind](reply.body))
        links = {key: to_port(body) for key, body in latest.items()}
        inner: dict[int, list[Port]] = {}
        for (where, _), port in links.items():
            if where != _HERE:
                inner.setdefault(where, []).append(port)
        here = {port.link.name: port for (where, _), port in links.items() if where == _HERE}
        self._remember(here, deleted_names)
        reduced_links = frozenset(name for index in reduced if (name := self._names.get(index)))
        extended_links = frozenset(self._names.get(index, "") for index in extended)
        for index in deleted_indexes - {port.link.ifindex for port in here.values()}:
            self._names.pop(index, None)
        return Changes(
            here,
            frozenset(deleted_names),
            reduced_links,
            extended_links,
            inner,
            frozenset(reduced_namespaces),
            mounts=mounts,
            rules=rules,
            missed=missed,
        )

    def _repeats(self, where: int, reply: Reply, latest: Mapping[tuple[int, int], bytes]) -> bool:
        """Return whether a notification reports no change of its own.

        Those about a bridge port repeat what the notification of the link contains. Those about parameters are of no
        interest for ports, and a new link reports its first ones, before the link itself: each join would have its own
        sandbox compared.
        """
        if reply.kind in (RTM_NEWLINK, RTM_DELLINK):
            return reply.body[0] == socket.AF_BRIDGE
        if reply.kind != RTM_NEWNETCONF:
            return False
        index = index_of_netconf(reply.body)
        name = self._names.get(index)
        return (where, index) not in latest if name is None else OUR_LINKS["veth"].fullmatch(name) is not None

    def _remember(self, here: Mapping[str, Port], deleted_names: set[str]) -> None:
        for name in deleted_names - here.keys():
            self._forget_namespace(name)
        for name, port in here.items():
            self._names[port.link.ifindex] = name
            self._remember_namespace(port)

    def _remember_namespace(self, port: Port) -> None:
        if port.peer_namespace >= 0:
            self._forget_namespace(port.link.name)
            self._namespaces[port.link.name] = port.peer_namespace
            self._links_into.setdefault(port.peer_namespace, set()).add(port.link.name)

    def _forget_namespace(self, name: str) -> None:
        number = self._namespaces.pop(name, -1)
        links = self._links_into.get(number, set())
        links.discard(name)
        if not links:
            self._links_into.pop(number, None)

    def _mounts_changed(self) -> bool:
        """Return whether the mount table changed since the last call (proc(5): it can be polled)."""
        if self._mounts is None:
            self._table = open(_MOUNTS, "rb")  # noqa: SIM115 - open as long as the watcher
            self._mounts = select.poll()
            self._mounts.register(self._table, select.POLLPRI | select.POLLERR)
        return bool(self._mounts.poll(0))


def _subscribed_inside() -> socket.socket:
    """Subscribe to changes in sandboxes. The host's links with names of ours do not count here."""
    return subscribed(_BACKLOG, (RTM_NEWLINK, *_REDUCED_INSIDE), also=RULES, all_namespaces=True, without=OWN_PREFIXES)


def _without_changes(*, rules: bool, missed: bool) -> Changes:
    """Return the first report after a subscription: no changes, but everything is to be checked."""
    names, numbers = frozenset[str](), frozenset[int]()
    return Changes({}, names, names, names, {}, numbers, mounts=True, rules=rules, missed=missed)
