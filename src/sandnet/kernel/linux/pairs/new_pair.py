"""Make a veth pair between the host's namespace and a sandbox's, and set up both ends with one batch each."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.pairs.interface import announces_itself, interface_requests
from sandnet.kernel.netlink.neighbours import announcement, port_entries
from sandnet.kernel.netlink.outside_link import full
from sandnet.kernel.netlink.rtnetlink import (
    alias,
    family_options,
    link_header,
    mac_and_mtu,
    mac_bytes,
    port_options,
    veth_info,
)
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, Request, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFNAME, IFLA_MASTER
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.types import PORTS, Veth
from sandnet.model.address import Address


class Ends(NamedTuple):
    """The two namespaces of a veth pair, and its bridge."""

    here: Netlink
    there: Netlink
    namespace: int
    """Descriptor of the sandbox's."""
    bridge: int
    """Its index."""


def make_pair(ends: Ends, veth: Veth) -> None:
    """Make the pair, the host end on the bridge.

    That end is up, unless it is to be isolated: each change of a port's state costs the kernel a walk over all ports of
    the bridge (2.6 ms at 900), and one that is to be isolated forwards nothing before it is.

    Raises:
        NetlinkError: ``EEXIST`` one of the names is taken; ``EXFULL`` the bridge is full.
    """
    host = string(IFLA_IFNAME, veth.host_link) + u32(IFLA_MASTER, ends.bridge) + mac_and_mtu(mtu=veth.mtu)
    peer = veth_info(veth.interface, ends.namespace, mac_and_mtu(veth.mac, veth.mtu))
    header = link_header(up=not veth.isolated)
    ends.here.call(RTM_NEWLINK, header + host + peer, NLM_F_CREATE | NLM_F_EXCL)


def set_up_new(ends: Ends, veth: Veth, outdated: Sequence[Address]) -> bool:
    """Set up both ends of a pair that was just made; ``False``: the kernel refuses a part.

    Args:
        ends: the namespaces.
        veth: the desired link.
        outdated: own addresses that neighbours may remember with another MAC.
    """
    port, inner = index_of(ends.here, veth.host_link), index_of(ends.there, veth.interface)
    try:
        if veth.isolated or veth.hairpin:  # by itself: the kernel carries out a batch past what it refuses
            ends.here.call(RTM_SETLINK, port_options(port, isolated=veth.isolated, hairpin=veth.hairpin))
        ends.here.batch([*_host_requests(port, ends.bridge, veth)])
        ends.there.batch([*_inner_requests(inner, veth, outdated)])
    except NetlinkError:
        return False
    return True


def _host_requests(index: int, bridge: int, veth: Veth) -> Iterator[Request]:
    header = link_header(index, up=True if veth.isolated else None)
    yield Request(RTM_SETLINK, header + u32(IFLA_GROUP, PORTS) + family_options(link_local=False) + alias(veth.alias))
    yield from port_entries(index, bridge, mac_bytes(veth.mac), veth.own_addresses)


def _inner_requests(index: int, veth: Veth, outdated: Sequence[Address]) -> Iterator[Request]:
    shares = bool(veth.service or veth.service_ipv6)
    options = family_options(link_local=veth.address_ipv6 is not None, own_addresses_only=shares)
    if options:  # a separate request: in one with the next, the link is up before this takes effect
        yield Request(RTM_SETLINK, link_header(index) + options)
    yield Request(RTM_SETLINK, link_header(index, up=True))
    yield from interface_requests(index, veth)
    if announces_itself(veth, outdated):
        yield announcement(index, outdated[0])


def refusal(error: NetlinkError, veth: Veth) -> Exception:
    """Return the error for a pair that cannot be made although no retired link is in the way."""
    if error.errno == errno.EXFULL:
        return full(veth.master)
    if error.errno == errno.EEXIST:
        return Error(Kind.CONFLICT, f"the name {veth.interface} is taken in the namespace", code="interface_taken")
    return error


def index_of(netlink: Netlink, name: str) -> int:
    """Return the index of a link.

    Raises:
        Error: ``NOT_FOUND``.
    """
    index = netlink.index(name)
    if not index:
        raise not_found("link", name)
    return index
