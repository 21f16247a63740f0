"""Plug the link of a prepared sandbox, with one batch of requests in each of the two namespaces.

It comes to the same as :meth:`LinuxLinks.plug` and :meth:`LinuxNamespaces.default_routes` on a link that was just made,
in a sixth of the system calls.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

from sandnet.kernel.linux.pairs.interface import USUAL_MTU, announces_itself, interface_requests
from sandnet.kernel.netlink.neighbours import announcement, port_entries
from sandnet.kernel.netlink.routes import Route, default_request, group_requests
from sandnet.kernel.netlink.rtnetlink import (
    alias,
    family_options,
    link_header,
    mac_and_mtu,
    mac_bytes,
    options_of_prepared,
    port_options,
)
from sandnet.kernel.netlink.socket import Netlink, NetlinkError, Request, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_MASTER
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.types import PORTS, DefaultRoute, PreparedSandbox, Veth
from sandnet.model.address import Address


def host_batches(prepared: PreparedSandbox, veth: Veth, bridge: int) -> list[list[Request]]:
    """Return the batches in the host's namespace: the host end joins the bridge and is up.

    An end that is to be isolated forwards nothing before it is. The kernel carries out a batch past what it refuses, so
    such an end is set up by a batch of its own.

    Args:
        prepared: the sandbox.
        veth: the desired link.
        bridge: index of the bridge.
    """
    requests = [*_host_requests(prepared, veth, bridge)]
    return (
        [requests, [Request(RTM_SETLINK, link_header(prepared.host_index, up=True))]] if veth.isolated else [requests]
    )


def _host_requests(prepared: PreparedSandbox, veth: Veth, bridge: int) -> Iterator[Request]:
    index = prepared.host_index
    mtu = veth.mtu if veth.mtu != USUAL_MTU else 0
    # a separate request: in one with the next, the link is up before this takes effect
    yield Request(RTM_SETLINK, link_header(index) + family_options(link_local=False))
    body = mac_and_mtu(mtu=mtu) + u32(IFLA_GROUP, PORTS) + alias(veth.alias) + u32(IFLA_MASTER, bridge)
    yield Request(RTM_SETLINK, link_header(index, up=None if veth.isolated else True) + body)
    if veth.isolated or veth.hairpin:
        yield Request(RTM_SETLINK, port_options(index, isolated=veth.isolated, hairpin=veth.hairpin))
    yield from port_entries(index, bridge, mac_bytes(veth.mac), veth.own_addresses)


def inner_requests(
    prepared: PreparedSandbox, veth: Veth, routes: Sequence[DefaultRoute], outdated: Sequence[Address]
) -> Iterator[Request]:
    """Yield the requests inside: the interface is up, with its MAC, MTU, addresses and default routes.

    Args:
        prepared: the sandbox.
        veth: the desired link.
        routes: default routes.
        outdated: own addresses that neighbours may remember with another MAC.
    """
    index = prepared.inner_index
    shares = bool(veth.service or veth.service_ipv6)
    options = options_of_prepared(link_local=veth.address_ipv6 is not None, own_addresses_only=shares)
    if options:  # a separate request: in one with the next, the link is up before this takes effect
        yield Request(RTM_SETLINK, link_header(index) + options)
    mtu = veth.mtu if veth.mtu != USUAL_MTU else 0
    yield Request(RTM_SETLINK, link_header(index, up=True) + mac_and_mtu(veth.mac, mtu))
    yield from interface_requests(index, veth)
    for route in routes:
        yield default_request(Route(route.gateway, index))
    if not any(route.gateway.version == 4 for route in routes):
        yield from group_requests(index)
    if announces_itself(veth, outdated):
        yield announcement(index, outdated[0])


def send(
    here: Netlink, there: Netlink, host: Sequence[Sequence[Request]], inner: Sequence[Request], reap: Callable[[], None]
) -> bool:
    """Send all batches; return ``False`` where the kernel refuses a part.

    Retired links count as ports of a full bridge (``EXFULL``) until they are deleted, so it is tried again after that.

    Args:
        here: a socket of the host's namespace.
        there: a socket of the sandbox's.
        host: the batches of the host's namespace.
        inner: that of the sandbox's.
        reap: deletes the retired links.

    Raises:
        NetlinkError: the bridge is full.
    """
    for last in (False, True):
        try:
            for requests in host:
                here.batch(requests)
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
