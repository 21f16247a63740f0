"""The requests about neighbours that we make, as functions over a :class:`Netlink` socket.

The kernel has one table of neighbours for all network namespaces, and at most ``gc_thresh3`` entries in it, by default
1,024. A sandbox that sends to many addresses fills it, and then no namespace gets a new entry. Entries that were
learned from outside the kernel (``NTF_EXT_LEARNED``) do not count and are never discarded (``neigh_alloc`` in
net/core/neighbour.c, since Linux 5.0). Otherwise they are as any other: the kernel confirms them, resolves them again
when they fail, and accepts another MAC. So the host and a sandbox have such entries for each other.

Layouts and numbers: ``linux/neighbour.h``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Final

from sandnet.kernel.netlink.rtnetlink import mac_bytes
from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    Request,
    attribute,
    attributes,
    u32,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH
from sandnet.kernel.netlink.uapi.neighbour_numbers import (
    NDA_DST,
    NDA_IFINDEX,
    NDA_LLADDR,
    NDMSG,
    NTF_EXT_LEARNED,
    NTF_MASTER,
    NTF_USE,
    NUD_NOARP,
    NUD_NONE,
    NUD_PERMANENT,
    NUD_REACHABLE,
    NUD_STALE,
)
from sandnet.model.address import Address

_REFUSED: Final = (errno.ENOBUFS, errno.EINVAL)
"""Refusals without which all works as before: a full table of an old kernel; a link on which IPv6 is disabled."""


def keep_neighbour(netlink: Netlink, index: int, address: Address, mac: bytes) -> None:
    """Set the MAC of a link's neighbour; see :func:`kept`."""
    netlink.call(*kept(index, address, mac))


def forgetting(index: int, address: Address) -> Request:
    """Return the request that deletes a link's entry for a neighbour; an absent entry or link is success."""
    accept = (*_REFUSED, errno.ENOENT, errno.ENODEV)
    return Request(RTM_DELNEIGH, _entry(index, address, NUD_NONE), accept=accept)


def kept(index: int, address: Address, mac: bytes = b"") -> Request:
    """Return the request for a neighbour's entry that the kernel keeps, however full its table is.

    Args:
        index: the link.
        address: the neighbour's. One of IPv6 is left alone on a link without IPv6.
        mac: the neighbour's MAC, 6 bytes. Empty: the kernel finds it out when it is needed, and an entry that exists is
            left alone.
    """
    if mac:
        body = _entry(index, address, NUD_STALE) + attribute(NDA_LLADDR, mac)
        return Request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, _REFUSED)
    body = _entry(index, address, NUD_NONE)
    return Request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_EXCL, (*_REFUSED, errno.EEXIST))


def port_entries(port: int, bridge: int, mac: bytes, addresses: Iterable[Address]) -> Iterator[Request]:
    """Yield the requests by which the host knows a new port's MAC and addresses, before the sandbox sends anything.

    A bridge sends what is for an unknown MAC to all ports. The entry of this one is not forgotten while the port exists
    (bridge(8): ``fdb replace … master static``). And the host may remember an earlier holder of an address.

    Args:
        port: index of the port.
        bridge: index of the bridge.
        mac: 6 bytes, the sandbox's.
        addresses: the sandbox's.
    """
    entry = NDMSG.pack(socket.AF_BRIDGE, port, NUD_NOARP | NUD_REACHABLE, NTF_MASTER, 0) + attribute(NDA_LLADDR, mac)
    yield Request(RTM_NEWNEIGH, entry, NLM_F_CREATE | NLM_F_REPLACE)
    for address in addresses:
        yield kept(bridge, address, mac)


def announcement(index: int, address: Address) -> Request:
    """Return the request by which the kernel announces the link's own IPv4 address: it requests that address.

    Sender and target of the request are the same then (RFC 5227, 3). The kernel sends it three times, a second apart,
    as no one answers (``mcast_solicit``, ``retrans_time_ms``).
    """
    return Request(RTM_NEWNEIGH, _entry(index, address, NUD_NONE, NTF_USE), NLM_F_CREATE)


def change_kept(netlink: Netlink, interface: str, added: Mapping[Address, str], removed: Iterable[Address]) -> None:
    """Add entries that the kernel keeps, and remove others. Permanent entries, which a user made, are left alone.

    Args:
        netlink: a socket of the link's namespace.
        interface: the link; an absent one is success.
        added: the neighbours' MACs.
        removed: further neighbours.
    """
    index = netlink.index(interface)
    if not index:
        return
    by_user = _permanent(netlink, index)
    requests = [forgetting(index, address) for address in removed if address not in by_user]
    for address, mac in added.items():
        if address not in by_user:
            request = kept(index, address, mac_bytes(mac))
            requests.append(request._replace(accept=(*request.accept, errno.ENODEV)))
    if requests:
        netlink.batch(requests)


def _permanent(netlink: Netlink, index: int) -> set[Address]:
    found = set()
    for body in netlink.dump(RTM_GETNEIGH, NDMSG.pack(0, 0, 0, 0, 0) + u32(NDA_IFINDEX, index)):
        _family, owner, state, _flags, _type = NDMSG.unpack_from(body)
        if owner == index and state & NUD_PERMANENT:
            found.add(ip_address(attributes(body, NDMSG.size)[NDA_DST]))
    return found


def _entry(index: int, address: Address, state: int, flags: int = 0) -> bytes:
    header = NDMSG.pack(_family(address), index, state, NTF_EXT_LEARNED | flags, 0)
    return header + attribute(NDA_DST, address.packed)


def _family(address: Address) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET
