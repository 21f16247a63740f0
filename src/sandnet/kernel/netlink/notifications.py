"""Subscribes to the kernel's notifications about links, addresses and routes (rtnetlink(7))."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from typing import Final

from sandnet.kernel.netlink.notification_filter import attach, attach_static_neighbours
from sandnet.kernel.netlink.socket import SOL_NETLINK
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)

_GROUPS: Final = (1, 5, 7, 9, 11)
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""
_NEIGHBOURS: Final = (3,)
"""RTNLGRP_NEIGH: neighbours, and forwarding entries."""
RULES: Final = (8, 19)
"""RTNLGRP_IPV4_RULE, IPV6_RULE."""
TRAFFIC_CONTROL: Final = (4,)
"""RTNLGRP_TC: limits of traffic, among other things."""
FORWARDING: Final = (24,)
"""RTNLGRP_IPV4_NETCONF: whether a link forwards, among other things."""
_ADD_MEMBERSHIP: Final = 1
LISTEN_ALL_NSID: Final = 8
"""Receive notifications of all namespaces that have a number in ours; each message contains that number
(netlink(7))."""
_SO_RCVBUFFORCE: Final = 33


_KINDS: Final = (RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE)


def subscribed(
    backlog: int,
    kinds: Collection[int] = _KINDS,
    *,
    also: Sequence[int] = (),
    all_namespaces: bool = False,
    without: Collection[str] = (),
) -> socket.socket:
    """Return a socket that receives all changes from now on, of the calling thread's namespace. Reading it never waits.

    Args:
        backlog: bytes of unread notifications the kernel keeps; beyond that a read fails with ``ENOBUFS``.
        kinds: message types that the caller uses; others need not arrive.
        also: further groups of notifications, beside links, addresses and routes.
        all_namespaces: those of other namespaces too (``LISTEN_ALL_NSID``).
        without: prefixes of the names of links whose changes the caller does not use; these need not arrive either.

    Raises:
        OSError: the kernel refuses.
    """
    subscription = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        attach(subscription, kinds, without=without)
        _subscribe(subscription, backlog, (*_GROUPS, *also), all_namespaces)
    except BaseException:
        subscription.close()
        raise
    return subscription


def subscribed_to_neighbours(backlog: int) -> socket.socket:
    """Return a socket that receives changes of static forwarding entries and of neighbours, as :func:`subscribed`.

    Raises:
        OSError: the kernel refuses.
    """
    subscription = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        attach_static_neighbours(subscription)
        _subscribe(subscription, backlog, _NEIGHBOURS, all_namespaces=False)
    except BaseException:
        subscription.close()
        raise
    return subscription


def _subscribe(subscription: socket.socket, backlog: int, groups: Sequence[int], all_namespaces: bool) -> None:
    subscription.setblocking(False)
    try:
        subscription.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, backlog)
    except PermissionError:  # in a user namespace; the host's limit has to suffice
        subscription.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, backlog)
    if all_namespaces:
        subscription.setsockopt(SOL_NETLINK, LISTEN_ALL_NSID, 1)
    subscription.bind((0, 0))  # without a port of its own it would receive nothing
    for group in groups:
        subscription.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
