"""Addresses that several sandboxes share, and the moment from which an IPv6 address works."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_interface
from typing import Final

from sandnet.kernel.netlink.routes import is_local
from sandnet.kernel.netlink.rtnetlink import LOOPBACK, add_service_address, remove_address
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.types import Veth
from sandnet.model.address import Address

_ROUTE_DEADLINE: Final = 2.0
"""Seconds. The kernel's work queue takes a tenth of a millisecond, more where many links change at once."""
_ROUTE_PAUSE: Final = 0.0002


def place_service_addresses(there: Netlink, inner: int, veth: Veth) -> None:
    """Put shared addresses on the interface of the holder, on ``lo`` elsewhere; they are always on one of the two."""
    place, other = (inner, LOOPBACK) if veth.holder else (LOOPBACK, inner)
    for address in shared_addresses(veth):
        add_service_address(there, place, address)
        if address.version == 6:
            await_route(partial(is_local, there, place, address))
        remove_address(there, other, ip_interface(address))


def await_route(is_there: Callable[[], bool]) -> None:
    """Wait until the kernel accepts packets to a new IPv6 address.

    The address is there at once. Its route, and the answer to neighbour solicitations, exist only after a work queue
    has run (``addrconf_dad_work`` in net/ipv6/addrconf.c). Packets that arrive in between are lost, and a neighbour
    asks again only after a second (RFC 4861, 10: RETRANS_TIMER).
    """
    deadline = time.monotonic() + _ROUTE_DEADLINE
    while not is_there() and time.monotonic() < deadline:
        time.sleep(_ROUTE_PAUSE)


def shared_addresses(veth: Veth) -> list[Address]:
    """Return the addresses that an interface shares with others."""
    return [service.ip for service in (veth.service, veth.service_ipv6) if service]
