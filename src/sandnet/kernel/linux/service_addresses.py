"""Addresses that several sandboxes share, and the moments from which a link and an IPv6 address work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_interface
from typing import Final

from sandnet.kernel.netlink.routes import is_deliverable, is_local
from sandnet.kernel.netlink.rtnetlink import add_service_address, is_activated, remove_address
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.netlink.uapi.link_numbers import LOOPBACK
from sandnet.kernel.types import Veth
from sandnet.model.address import Address

_DEADLINE: Final = 2.0
"""Seconds. The kernel's work queues take a tenth of a millisecond, more where many links change at once."""
_PAUSE: Final = 0.0002


def place_service_addresses(there: Netlink, inner: int, veth: Veth) -> None:
    """Put shared addresses on the interface of the holder, on ``lo`` elsewhere; they are always on one of the two."""
    place, other = (inner, LOOPBACK) if veth.holder else (LOOPBACK, inner)
    for address in shared_addresses(veth):
        add_service_address(there, place, address)
        if address.version == 6:
            _await_work(partial(is_local, there, place, address))
        remove_address(there, other, ip_interface(address))


def await_delivery(here: Netlink, there: Netlink, veth: Veth) -> None:
    """Wait until the first packet to a new interface arrives.

    The kernel leaves two steps to its work queues, and loses the packets that come before them. A link whose other end
    came up later transmits nothing, and a bridge disables it as a port (``linkwatch_do_dev`` in net/core/link_watch.c).
    So it is with a bridge and its first port. And a new IPv6 address has no route and does not answer neighbour
    solicitations (``addrconf_dad_work`` in net/ipv6/addrconf.c). Who asks for a neighbour in vain asks again only after
    a second (RFC 4861, 10: RETRANS_TIMER; ARP the same).

    Args:
        here: a socket of the host's namespace.
        there: a socket of the sandbox's.
        veth: the pair, both ends of which were set up.
    """
    for name in (veth.host_link, veth.master):  # the bridge has a carrier only when its port is enabled
        _await_work(partial(is_activated, here, here.index(name)))
    for address in veth.own_addresses:
        if address.version == 6:
            _await_work(partial(is_deliverable, there, address))


def _await_work(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not is_done() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def shared_addresses(veth: Veth) -> list[Address]:
    """Return the addresses that an interface shares with others."""
    return [service.ip for service in (veth.service, veth.service_ipv6) if service]
