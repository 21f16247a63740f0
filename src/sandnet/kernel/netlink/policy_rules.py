"""Keeps routing rules of other programs, such as VPN clients, from diverting packets to our networks.

A VPN client adds a rule that looks in a table of its own before the main one, which has the routes to our bridges. So
where there are such rules, one of ours precedes them and leads to a table that contains only the routes to our bridges.
Where there are none, we add none: a host without additional rules routes faster.

Layouts and numbers: ``linux/fib_rules.h``, ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sandnet.kernel.netlink.routes import ROUTE_PROTOCOL
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes, to_number, u32
from sandnet.kernel.netlink.source_routing import list_rules
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from sandnet.kernel.netlink.uapi.route_numbers import (
    FIB_RULE_HDR,
    FR_ACT_TO_TBL,
    FRA_L3MDEV,
    FRA_PRIORITY,
    FRA_PROTOCOL,
    FRA_TABLE,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_TABLE,
    RTMSG,
    RTN_UNICAST,
)
from sandnet.kernel.source_policy import TABLES
from sandnet.kernel.types import RT_TABLE_MAIN, BridgeRoute

_TABLE: Final = TABLES
"""No interface has the index 0, so no sandbox has a table of this number."""
_MAIN_PRIORITY: Final = 32766
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_NOT_YET: Final = (errno.EEXIST, errno.EINVAL, errno.ENETDOWN, errno.ENODEV)
"""The route exists, or the bridge is down, has no address or does not exist. The bridge's own repair comes first, and
this route is added after it."""
_Routes = frozenset[tuple[bytes, int, int, bytes]]
"""Destination and its length, index of the link, source."""


class _Rules(NamedTuple):
    """The rules of a family, reduced to what matters to us."""

    ours: tuple[int, ...]
    """Priorities of our rules."""
    local: int
    """Priority of the first rule that leads to the table of the host's own addresses; -1: there is none."""
    first: int
    """Priority of the first rule of another program after that; -1: there is none, or none before the main table's."""

    @property
    def needed_priority(self) -> int:
        """The priority that our rule needs; -1: none is needed, or there is no place for it."""
        return self.first - 1 if self.first > self.local >= 0 else -1

    @property
    def is_blocked(self) -> bool:
        """Whether another program's rule has the priority of the local table's, so that there is no place for ours."""
        return self.local >= 0 and 0 <= self.first <= self.local

    @property
    def is_right(self) -> bool:
        """Whether our rule is there and precedes those of other programs, or none is needed."""
        if self.needed_priority < 0:
            return not self.ours
        return len(self.ours) == 1 and self.local <= self.ours[0] < self.first


def is_preferred(netlink: Netlink, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
    """See :meth:`sandnet.kernel.base.Host.is_preferred`."""
    return all(_is_right(netlink, version, needed, allowed) for version in _FAMILIES)


def prefer(netlink: Netlink, routes: Sequence[BridgeRoute]) -> None:
    """See :meth:`sandnet.kernel.base.Host.prefer`; without routes, remove all rules and routes of ours.

    Raises:
        NetlinkError: the kernel refuses.
    """
    for version in _FAMILIES:
        rules = _rules(netlink, version)
        needed_priority = rules.needed_priority if routes else -1
        desired = _desired(netlink, version, routes) if needed_priority >= 0 else _Routes()
        if needed_priority < 0 or not rules.is_right:
            for priority in rules.ours:
                netlink.call(RTM_DELRULE, _rule_body(version, priority), accept=(errno.ENOENT,))
        present = _present(netlink, version)
        for route in present - desired:
            netlink.call(RTM_DELROUTE, _route_body(version, route), accept=(errno.ESRCH,))
        for route in desired - present:
            netlink.call(RTM_NEWROUTE, _route_body(version, route), NLM_F_CREATE | NLM_F_EXCL, accept=_NOT_YET)
        if needed_priority >= 0 and not rules.is_right:
            netlink.call(
                RTM_NEWRULE, _rule_body(version, needed_priority), NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,)
            )


def _is_right(netlink: Netlink, version: int, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
    rules = _rules(netlink, version)
    if rules.is_blocked:
        return not _desired(netlink, version, needed)
    if rules.needed_priority < 0 or not needed:  # a rule of ours that is no longer necessary does no harm
        return True
    present = _present(netlink, version)
    return rules.is_right and _desired(netlink, version, needed) <= present <= _desired(netlink, version, allowed)


def _rules(netlink: Netlink, version: int) -> _Rules:
    ours: list[int] = []
    local, first = -1, -1
    for body in list_rules(netlink, _FAMILIES[version]):
        parts = attributes(body, FIB_RULE_HDR.size)
        priority, table = to_number(parts.get(FRA_PRIORITY)), to_number(parts.get(FRA_TABLE))
        if parts.get(FRA_PROTOCOL) == bytes([ROUTE_PROTOCOL]) and table == _TABLE:
            ours.append(priority)
        elif local < 0:
            local = priority if table == RT_TABLE_LOCAL else local
        elif first < 0 and priority < _MAIN_PRIORITY and FRA_L3MDEV not in parts and table != RT_TABLE_MAIN:
            first = priority
    return _Rules(tuple(ours), local, first)


def _desired(netlink: Netlink, version: int, routes: Sequence[BridgeRoute]) -> _Routes:
    found = []
    for route in routes:
        index = netlink.index(route.link)
        if route.prefix.version == version and index:
            source = route.source.packed if route.source and version == 4 else b""
            found.append((route.prefix.network_address.packed, route.prefix.prefixlen, index, source))
    return frozenset(found)


def _present(netlink: Netlink, version: int) -> _Routes:
    return frozenset(_dump(netlink, version))


def _dump(netlink: Netlink, version: int) -> Iterator[tuple[bytes, int, int, bytes]]:
    family = _FAMILIES[version]
    for body in netlink.dump(RTM_GETROUTE, RTMSG.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)):
        length, protocol, parts = body[1], body[5], attributes(body, RTMSG.size)
        if protocol == ROUTE_PROTOCOL and to_number(parts.get(RTA_TABLE)) == _TABLE:
            yield parts.get(RTA_DST, b""), length, to_number(parts.get(RTA_OIF)), parts.get(RTA_PREFSRC, b"")


def _rule_body(version: int, priority: int) -> bytes:
    body = FIB_RULE_HDR.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
    return (
        body + u32(FRA_PRIORITY, priority) + u32(FRA_TABLE, _TABLE) + attribute(FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    )


def _route_body(version: int, route: tuple[bytes, int, int, bytes]) -> bytes:
    destination, length, index, source = route
    scope = RT_SCOPE_LINK if version == 4 else RT_SCOPE_UNIVERSE
    body = RTMSG.pack(_FAMILIES[version], length, 0, 0, 0, ROUTE_PROTOCOL, scope, RTN_UNICAST, 0)
    body += u32(RTA_TABLE, _TABLE) + attribute(RTA_DST, destination) + u32(RTA_OIF, index)
    return body + (attribute(RTA_PREFSRC, source) if source else b"")
