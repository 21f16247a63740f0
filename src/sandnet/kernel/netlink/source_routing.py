"""Routing by source in a sandbox with several interfaces: one table per interface, and the rules that choose it.

Without them every answer leaves by the one default route, whichever network the request arrived on, and the
anti-spoofing guard of that other network drops it. Our rules and routes bear our protocol number (``FRA_PROTOCOL``,
``rtm_protocol``); all others stay.

Layouts and numbers: ``linux/fib_rules.h``, ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from sandnet.kernel.netlink.routes import ROUTE_PROTOCOL
from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    to_number,
    u32,
)
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from sandnet.kernel.netlink.uapi.route_numbers import (
    FIB_RULE_HDR,
    FR_ACT_TO_TBL,
    FRA_IP_PROTO,
    FRA_PRIORITY,
    FRA_PROTOCOL,
    FRA_SPORT_RANGE,
    FRA_SRC,
    FRA_SUPPRESS_PREFIXLEN,
    FRA_TABLE,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_TABLE,
    RTMSG,
    RTN_UNICAST,
)
from sandnet.kernel.source_policy import TABLES, default_destination
from sandnet.kernel.types import Policy, PolicyRoute, PolicyRule

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSIONS: Final = {int(family): version for version, family in _FAMILIES.items()}
_PORTS: Final = struct.Struct("=HH")
_NO_LIMIT: Final = 0xFFFFFFFF


def dump_policy(netlink: Netlink) -> Policy:
    """Return our rules, and if there are any, the routes of our tables."""
    rules = frozenset(_dump_rules(netlink))
    routes = _dump_routes(netlink) if rules else ()
    return Policy(rules, frozenset(routes))


def ensure_policy(netlink: Netlink, desired: Policy) -> None:
    """Make these our only rules of the namespace, and these routes the only ones of our tables.

    Those that are right are not touched. Routes are added before the rules that lead to them, and deleted after.

    Raises:
        NetlinkError: the kernel refuses, as one without ``CONFIG_IP_MULTIPLE_TABLES``.
    """
    rules, routes = frozenset(_dump_rules(netlink)), frozenset(_dump_routes(netlink))
    for rule in rules - desired.rules:
        netlink.call(RTM_DELRULE, _rule_body(rule), accept=(errno.ENOENT,))
    for route in routes - desired.routes:
        netlink.call(RTM_DELROUTE, _route_body(route), accept=(errno.ESRCH,))
    for route in sorted(desired.routes - routes, key=lambda each: bool(each.gateway)):
        netlink.call(RTM_NEWROUTE, _route_body(route), NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))
    for rule in sorted(desired.rules - rules):
        netlink.call(RTM_NEWRULE, _rule_body(rule), NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def list_rules(netlink: Netlink, family: int = socket.AF_UNSPEC) -> list[bytes]:
    """List all rules of a family, or of all; none where the kernel has no rules (``CONFIG_IP_MULTIPLE_TABLES``)."""
    try:
        return netlink.dump(RTM_GETRULE, FIB_RULE_HDR.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    except NetlinkError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            raise
        return []


def _dump_rules(netlink: Netlink) -> Iterator[PolicyRule]:
    for body in list_rules(netlink):
        family, parts = body[0], attributes(body, FIB_RULE_HDR.size)
        if family not in _VERSIONS or parts.get(FRA_PROTOCOL) != bytes([ROUTE_PROTOCOL]):
            continue
        low, high = _PORTS.unpack(parts.get(FRA_SPORT_RANGE, bytes(4)))
        yield PolicyRule(
            version=_VERSIONS[family],
            priority=to_number(parts.get(FRA_PRIORITY)),
            source=parts.get(FRA_SRC, b""),
            ports=(low, high),
            table=to_number(parts.get(FRA_TABLE)),
            specific=to_number(parts.get(FRA_SUPPRESS_PREFIXLEN)) == 0,
        )


def _dump_routes(netlink: Netlink) -> Iterator[PolicyRoute]:
    for version, family in _FAMILIES.items():
        for body in netlink.dump(RTM_GETROUTE, RTMSG.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)):
            found, length, _src, _tos, _table, protocol, *_rest = RTMSG.unpack_from(body)
            parts = attributes(body, RTMSG.size)
            table = to_number(parts.get(RTA_TABLE))
            if (found, protocol) == (family, ROUTE_PROTOCOL) and table & 0xFFFF0000 == TABLES:
                destination = (parts.get(RTA_DST, default_destination(version)[0]), length)
                gateway, source = parts.get(RTA_GATEWAY, b""), parts.get(RTA_PREFSRC, b"")
                yield PolicyRoute(version, table, destination, gateway, to_number(parts.get(RTA_OIF)), source)


def _rule_body(rule: PolicyRule) -> bytes:
    length = len(rule.source) * 8
    body = FIB_RULE_HDR.pack(_FAMILIES[rule.version], 0, length, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
    body += u32(FRA_PRIORITY, rule.priority) + u32(FRA_TABLE, rule.table)
    body += attribute(FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    body += u32(FRA_SUPPRESS_PREFIXLEN, 0 if rule.specific else _NO_LIMIT)
    if rule.source:
        body += attribute(FRA_SRC, rule.source)
    if rule.ports != (0, 0):
        body += attribute(FRA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
        body += attribute(FRA_SPORT_RANGE, _PORTS.pack(*rule.ports))
    return body


def _route_body(route: PolicyRoute) -> bytes:
    packed, length = route.destination
    scope = RT_SCOPE_LINK if route.version == 4 and not route.gateway else RT_SCOPE_UNIVERSE
    head = (_FAMILIES[route.version], length, 0, 0, 0, ROUTE_PROTOCOL, scope, RTN_UNICAST, 0)
    body = RTMSG.pack(*head) + u32(RTA_TABLE, route.table) + u32(RTA_OIF, route.ifindex)
    body += attribute(RTA_PREFSRC, route.source)
    if length:
        body += attribute(RTA_DST, packed)
    return body + (attribute(RTA_GATEWAY, route.gateway) if route.gateway else b"")
