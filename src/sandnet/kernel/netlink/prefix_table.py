"""The prefixes on a host's links, kept up to date from rtnetlink messages.

Layouts and numbers: ``linux/rtnetlink.h``, ``linux/if_addr.h``. Some changes have no message and are derived here: IPv4
routes vanish silently with their link or their preferred source address, and of a replaced route only the new one is
reported.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from sandnet.kernel.netlink.socket import NLM_F_APPEND, NLM_F_REPLACE, attributes, to_number, to_text
from sandnet.kernel.netlink.uapi.address_numbers import IFA_ADDRESS, IFA_LOCAL, IFADDRMSG
from sandnet.kernel.netlink.uapi.link_numbers import IFF_UP, IFINFOMSG, IFLA_IFNAME
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from sandnet.kernel.netlink.uapi.route_numbers import (
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_F_CLONED,
    RTMSG,
    RTN_ANYCAST,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
)
from sandnet.model.address import Prefix

_NOT_PREFIXES: Final = (RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST)
"""The addresses contain the same."""
_WIDEST: Final = {socket.AF_INET: 2, socket.AF_INET6: 4}
"""Shorter prefixes are default routes: VPNs set 0.0.0.0/1 and 128.0.0.0/1 (or 2000::/3) in place of one."""
_LOOPBACK_IPV6: Final = bytes(15) + b"\1"

_Destination = tuple[bytes, int, int, int, int]
"""Address, length, TOS, table, metric: a route replaces another one that has these in common."""
_Path = tuple[bytes | None, bytes | None]
"""Gateway and preferred source: routes to one destination differ in these or in the link."""
_Key = tuple[_Destination, _Path] | tuple[bytes, bytes, int]
"""The origin of a prefix: a route, or an address (its own, its peer's, the length)."""


def can_overlap(packed: bytes) -> bool:
    """Return whether a subnet of ours could overlap it: loopback, link-local and multicast never do."""
    if len(packed) == 4:
        return packed[0] != 127
    link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    return not link_local and packed[0] != 0xFF and packed != _LOOPBACK_IPV6


def prefix_of(packed: bytes, length: int) -> Prefix:
    """Return the network of ``length`` bits that contains an address."""
    return IPv4Network((packed, length), False) if len(packed) == 4 else IPv6Network((packed, length), False)


class PrefixTable:
    """Prefixes by their link; link 0: on none."""

    def __init__(self) -> None:
        self._doubtful = False
        self._deleted: set[bytes | None] = set()
        self._names: dict[int, str] = {}
        self._links: dict[int, dict[_Key, Prefix]] = {}
        self._paths: dict[_Destination, set[tuple[int, _Path]]] = {}

    def outside(self, ignore: Collection[str]) -> list[Prefix]:
        """Return all prefixes except those on the named links."""
        names = frozenset(ignore)
        found: list[Prefix] = []
        for link, prefixes in self._links.items():
            if self._names.get(link) not in names:
                found.extend(prefixes.values())
        return found

    def is_conclusive(self) -> bool:
        """Return whether the messages applied so far are conclusive; if not, only a full list helps.

        Call it when no more messages are waiting: the kernel reports a route after its address.
        """
        deleted, self._deleted = self._deleted, set()
        if deleted and any(source in deleted for paths in self._paths.values() for _link, (_gateway, source) in paths):
            self._doubtful = True
        return not self._doubtful

    def apply(self, kind: int, flags: int, body: bytes) -> None:
        """Apply one message of the kernel, from a full list or a notification; a second time does no harm."""
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            self._apply_route(kind, flags, body)
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            self._apply_address(kind, body)
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            self._apply_link(kind, body)

    def _apply_link(self, kind: int, body: bytes) -> None:
        family, _type, link, flags, _change = IFINFOMSG.unpack_from(body)
        if family != socket.AF_UNSPEC:  # a port that leaves its bridge is reported as a deleted link of AF_BRIDGE
            return
        if kind == RTM_DELLINK or not flags & IFF_UP:
            self._drop_routes(link)
        if kind == RTM_DELLINK:
            self._names.pop(link, None)
            self._links.pop(link, None)
        else:
            self._names[link] = to_text(attributes(body, IFINFOMSG.size).get(IFLA_IFNAME))

    def _apply_address(self, kind: int, body: bytes) -> None:
        family, length, _flags, _scope, link = IFADDRMSG.unpack_from(body)
        found = attributes(body, IFADDRMSG.size)
        peer = found.get(IFA_ADDRESS, b"")
        local = found.get(IFA_LOCAL) or peer
        if family not in _WIDEST or not local or not can_overlap(local):
            return
        if kind == RTM_DELADDR:
            self._drop(link, (local, peer, length))
            self._drop(link, (local, b"", length))
            self._deleted.add(local)
            return
        prefixes = self._links.setdefault(link, {})
        prefixes[local, peer, length] = prefix_of(peer, length)
        if local != peer:  # point to point: the prefix is the peer's
            prefixes[local, b"", length] = prefix_of(local, len(local) * 8)

    def _apply_route(self, kind: int, flags: int, body: bytes) -> None:
        family, length, _src, tos, table, _protocol, _scope, route_type, route_flags = RTMSG.unpack_from(body)
        if length < _WIDEST.get(family, 129) or route_type in _NOT_PREFIXES or route_flags & RTM_F_CLONED:
            return
        found = attributes(body, RTMSG.size)
        target = found.get(RTA_DST)
        table = to_number(found.get(RTA_TABLE)) or table
        if table == RT_TABLE_LOCAL or not target or not can_overlap(target):
            return
        destination = (target, length, tos, table, to_number(found.get(RTA_PRIORITY)))
        path = (found.get(RTA_GATEWAY), found.get(RTA_PREFSRC))
        link = to_number(found.get(RTA_OIF))
        if kind == RTM_NEWROUTE:
            self._put_route(link, destination, path, flags)
        elif (link, path) in self._paths.get(destination, ()):
            self._drop_route(link, destination, path)
        elif destination in self._paths:  # one next hop of several was removed
            self._doubtful = True

    def _put_route(self, link: int, destination: _Destination, path: _Path, flags: int) -> None:
        known = self._paths.get(destination, set()) - {(link, path)}
        if known and flags & (NLM_F_REPLACE | NLM_F_APPEND):
            if flags & NLM_F_APPEND or len(known) > 1:
                self._doubtful = True
            for old_link, old_path in known:
                self._drop_route(old_link, destination, old_path)
        self._paths.setdefault(destination, set()).add((link, path))
        self._links.setdefault(link, {})[destination, path] = prefix_of(destination[0], destination[1])

    def _drop_route(self, link: int, destination: _Destination, path: _Path) -> None:
        self._drop(link, (destination, path))
        paths = self._paths[destination]
        paths.discard((link, path))
        if not paths:
            del self._paths[destination]

    def _drop_routes(self, link: int) -> None:
        for key in list(self._links.get(link, ())):
            if len(key) == 2:
                self._drop_route(link, *key)

    def _drop(self, link: int, key: _Key) -> None:
        prefixes = self._links.get(link, {})
        prefixes.pop(key, None)
        if not prefixes:
            self._links.pop(link, None)
