"""Plug the link of a prepared sandbox, with one batch of requests in each of the two namespaces.

It comes to the same as :meth:`LinuxLinks.plug` and :meth:`LinuxNamespaces.default_routes` on a link that was just made,
in a sixth of the system calls.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sandnet.kernel.netlink.neighbours import announcement, kept
from sandnet.kernel.netlink.routes import Route, default_request, group_requests
from sandnet.kernel.netlink.rtnetlink import (
    address_request,
    alias,
    family_options,
    link_header,
    mac_and_mtu,
    mac_bytes,
    options_of_prepared,
    port_options,
    service_address_request,
)
from sandnet.kernel.netlink.socket import Netlink, NetlinkError, Request, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_MASTER
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.types import PORTS, DefaultRoute, PreparedSandbox, Veth

_USUAL_MTU: Final = 1500
"""Bytes: the MTU of a new link."""


def host_requests(prepared: PreparedSandbox, veth: Veth, bridge: int) -> Iterator[Request]:
    """Yield the requests in the host's namespace: the host end joins the bridge and is up.

    An end that is to be isolated forwards nothing before it is.

    Args:
        prepared: the sandbox.
        veth: the desired link.
        bridge: index of the bridge.
    """
    index = prepared.host_index
    mtu = veth.mtu if veth.mtu != _USUAL_MTU else 0
    # a separate request: in one with the next, the link is up before this takes effect
    yield Request(RTM_SETLINK, link_header(index) + family_options(link_local=False))
    body = mac_and_mtu(mtu=mtu) + u32(IFLA_GROUP, PORTS) + alias(veth.alias) + u32(IFLA_MASTER, bridge)
    yield Request(RTM_SETLINK, link_header(index, up=None if veth.isolated else True) + body)
    if veth.isolated or veth.hairpin:
        yield Request(RTM_SETLINK, port_options(index, isolated=veth.isolated, hairpin=veth.hairpin))
    if veth.isolated:
        yield Request(RTM_SETLINK, link_header(index, up=True))
    for address in veth.own_addresses:  # the host may remember an earlier holder
        yield kept(bridge, address, mac_bytes(veth.mac))


def inner_requests(prepared: PreparedSandbox, veth: Veth, routes: Sequence[DefaultRoute]) -> Iterator[Request]:
    """Yield the requests inside: the interface is up, with its MAC, MTU, addresses and default routes."""
    index = prepared.inner_index
    shares = bool(veth.service or veth.service_ipv6)
    options = options_of_prepared(link_local=veth.address_ipv6 is not None, own_addresses_only=shares)
    if options:  # a separate request: in one with the next, the link is up before this takes effect
        yield Request(RTM_SETLINK, link_header(index) + options)
    mtu = veth.mtu if veth.mtu != _USUAL_MTU else 0
    yield Request(RTM_SETLINK, link_header(index, up=True) + mac_and_mtu(veth.mac, mtu))
    for address in (veth.address_ipv6, veth.address):
        if address:
            yield address_request(index, address)
    for further in veth.additional_addresses:
        yield service_address_request(index, further)
    yield from bridge_entries(index, veth)
    for route in routes:
        yield default_request(Route(route.gateway, index))
    if not any(route.gateway.version == 4 for route in routes):
        yield from group_requests(index)
    if veth.address and not veth.hairpin:  # a hairpin port returns the request, which ends the series
        yield announcement(index, veth.address.ip)


def bridge_entries(index: int, veth: Veth) -> Iterator[Request]:
    """Yield the requests by which a sandbox keeps neighbour entries for its bridge.

    Args:
        index: the interface inside.
        veth: the desired link.
    """
    mac = mac_bytes(veth.link_mac) if veth.link_mac else b""
    for address in veth.bridge_addresses:
        yield kept(index, address, mac)


def send(
    here: Netlink, there: Netlink, host: Sequence[Request], inner: Sequence[Request], reap: Callable[[], None]
) -> bool:
    """Send both batches; return ``False`` where the kernel refuses a part.

    Retired links count as ports of a full bridge (``EXFULL``) until they are deleted, so it is tried again after that.

    Args:
        here: a socket of the host's namespace.
        there: a socket of the sandbox's.
        host: the requests of the host's namespace.
        inner: those of the sandbox's.
        reap: deletes the retired links.

    Raises:
        NetlinkError: the bridge is full.
    """
    for last in (False, True):
        try:
            here.batch(host)
            there.batch(inner)
        except NetlinkError as error:
            if error.errno != errno.EXFULL:
                return False
            if last:
                raise
            reap()
        else:
            break
    return True
