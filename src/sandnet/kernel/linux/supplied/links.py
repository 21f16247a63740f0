"""Moves a link that another program made from the host into a namespace, and back."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.supplied.macvlan_link import make_macvlan, stacking_problem
from sandnet.kernel.linux.sysctl import ProcSysctl, set_where_different
from sandnet.kernel.netlink.routes import add_static, dump_routes, is_of_kernel
from sandnet.kernel.netlink.rtnetlink import (
    add_address,
    add_service_address,
    alias,
    dump_ports,
    get_device,
    get_link,
    link_header,
    list_addresses,
    list_links,
    mac_and_mtu,
    remove_address,
    to_namespace,
)
from sandnet.kernel.netlink.socket import Netlink, NetlinkError, attribute, map_errors, string
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFALIAS, IFLA_IFNAME, LOOPBACK
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_SETLINK
from sandnet.kernel.syscalls import OWN_NAMESPACE, NotANetworkNamespaceError, in_namespace, opened_namespace
from sandnet.kernel.types import Link, Macvlan, MovedLink
from sandnet.model.address import Interface
from sandnet.model.link_names import MACVLAN_KIND, OUR_LINKS

_AGGREGATES: Final = ("bridge", "bond", "team", "vrf")
"""Kinds of links that have other links as their ports."""


class LinuxSuppliedLinks:
    """The Linux implementation of :class:`sandnet.kernel.namespace_protocols.SuppliedLinks`."""

    def stacking_problem(self, kind: str) -> str:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.stacking_problem`."""
        return stacking_problem(kind)

    def make_macvlan(self, link: Macvlan) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.make_macvlan`."""
        make_macvlan(link)

    def place(self, namespace: str, link: MovedLink) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.place`."""
        with map_errors(f"move link {link.source} into {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor:
                    self._place(descriptor, link)
            except (FileNotFoundError, NotANetworkNamespaceError) as error:
                raise not_found("namespace", namespace) from error

    def _place(self, descriptor: int, link: MovedLink) -> None:
        with Netlink() as here, Netlink.inside(descriptor) as there:
            inner = next(_marked(there, link.alias), None)
            if inner is None:
                if there.index(link.interface):
                    message = f"the name {link.interface} is taken in the namespace"
                    raise Error(Kind.CONFLICT, message, code="interface_taken")
                _move(here, descriptor, link)
                inner = next(_marked(there, link.alias))
            _configure(there, descriptor, inner, link)

    def remove_address(self, namespace: str, alias: str, address: Interface) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.remove_address`."""
        with map_errors(f"remove {address} in {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    for inner in [*_marked(there, alias)]:
                        remove_address(there, inner.ifindex, address)
            except (FileNotFoundError, NotANetworkNamespaceError):
                return

    def withdraw(self, namespace: str, source: str, alias: str) -> None:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.withdraw`."""
        with map_errors(f"move link {source} back from {namespace}"), Netlink() as here:
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    for inner in [*_marked(there, alias)]:
                        _move_back(here, there, inner, source)
            except (FileNotFoundError, NotANetworkNamespaceError):
                pass
            left = get_link(here, source)
            if left and left.alias == alias:
                here.call(RTM_SETLINK, link_header(left.ifindex) + attribute(IFLA_IFALIAS, b""))

    def is_placed(self, namespace: str, alias: str) -> bool:
        """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.is_placed`."""
        with map_errors(f"look for a link in {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    return any(_marked(there, alias))
            except (FileNotFoundError, NotANetworkNamespaceError):
                return False


def _marked(netlink: Netlink, alias: str) -> Iterator[Link]:
    """Yield the links with an alias. A program inside may have renamed them."""
    return (link for link in list_links(netlink) if link.alias == alias)


def _move(here: Netlink, namespace: int, link: MovedLink) -> None:
    """Mark the link and move it, down, with its new name. The mark comes first: it survives the move."""
    found = _unused(here, link.source)
    here.call(RTM_SETLINK, link_header(found.ifindex, up=False) + alias(link.alias))
    renamed = string(IFLA_IFNAME, link.interface)
    here.call(RTM_SETLINK, link_header(found.ifindex) + to_namespace(namespace) + renamed)


def _configure(there: Netlink, namespace: int, inner: Link, link: MovedLink) -> None:
    index = inner.ifindex
    if inner.name != link.interface:
        there.call(RTM_SETLINK, link_header(index, up=False))
        there.call(RTM_SETLINK, link_header(index) + string(IFLA_IFNAME, link.interface))
    if link.mac not in ("", inner.mac):  # links without an Ethernet header of their own refuse this
        there.call(RTM_SETLINK, link_header(index) + mac_and_mtu(link.mac), accept=(errno.EOPNOTSUPP,))
    there.call(RTM_SETLINK, link_header(index, up=True))
    for address in link.addresses:
        _add_address(there, namespace, index, link.interface, address)
    for further in link.additional_addresses:
        add_service_address(there, index, further)
    for destination, gateway in link.routes:
        add_static(there, index, destination, gateway)


def _add_address(there: Netlink, namespace: int, index: int, interface: str, address: Interface) -> None:
    """Add an address; IPv6 is switched on where it is off for the interface."""
    try:
        add_address(there, index, address)
    except NetlinkError as error:
        if error.errno != errno.EACCES or address.version != 6:
            raise
        with in_namespace(namespace):
            set_where_different(ProcSysctl(), f"net/ipv6/conf/{interface}/disable_ipv6", "0")
        add_address(there, index, address)


def _move_back(here: Netlink, there: Netlink, inner: Link, source: str) -> None:
    """Move a link to the host, down. Where its name is taken by now, a virtual link is deleted instead."""
    if here.index(source):
        if not inner.kind:
            raise Error(Kind.CONFLICT, f"there is another link {source} on the host", "rename it")
        there.call(RTM_DELLINK, link_header(inner.ifindex), accept=(errno.ENODEV,))
        return
    there.call(RTM_SETLINK, link_header(inner.ifindex, up=False))
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        renamed = string(IFLA_IFNAME, source) + attribute(IFLA_IFALIAS, b"")
        there.call(RTM_SETLINK, link_header(inner.ifindex) + to_namespace(home) + renamed, accept=(errno.ENODEV,))
    finally:
        os.close(home)


def _unused(here: Netlink, name: str) -> Link:
    """Return a link of the host that nothing else on the host uses.

    Raises:
        Error: ``CONFLICT``, code ``link_missing`` or ``link_in_use``.
    """
    device = get_device(here, name)
    if device is None:
        raise Error(Kind.CONFLICT, f"there is no link {name} on the host to be moved", code="link_missing")
    if use := _use_of(here, device.link):
        raise Error(Kind.CONFLICT, f"link {name} is not moved: {use}", code="link_in_use")
    return device.link


def _use_of(here: Netlink, link: Link) -> str:
    """Return what the host uses a link for; empty: nothing."""
    own = OUR_LINKS.get(link.kind)
    if link.ifindex == LOOPBACK:
        return "it is the host's loopback"
    if own and own.fullmatch(link.name) and link.kind != MACVLAN_KIND:
        return "sandnet made it for another purpose"
    if link.master:
        return "it is a port of another link"
    if link.kind in _AGGREGATES:
        return f"it is a {link.kind}"
    if any(not address.ip.is_link_local for address in list_addresses(here, link.ifindex)):
        return "the host has addresses on it"
    families = (socket.AF_INET, socket.AF_INET6)
    if any(not is_of_kernel(route) for family in families for route in dump_routes(here, family, link.ifindex)):
        return "the host has routes through it"
    if any(_is_above(port.link.kind, port.peer, port.peer_namespace, link) for port in dump_ports(here)):
        return "other links of the host are on top of it"
    return ""


def _is_above(kind: str, lower: int, namespace: int, link: Link) -> bool:
    """Return whether a link is stacked on another; the two ends of a veth pair refer to each other, too."""
    return lower == link.ifindex and namespace < 0 and kind not in ("", "veth")
