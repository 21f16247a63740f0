"""VXLAN links as ports of bridges, in the kernel of this machine.

Layouts and numbers: ``linux/if_link.h``.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.sysctl import ProcSysctl, set_where_different
from sandnet.kernel.linux.vxlan.entry_watcher import EntryWatcher
from sandnet.kernel.linux.vxlan.new_link import KIND, add_vxlan_link
from sandnet.kernel.linux.vxlan.peer_entries import change_entries, dump_entries
from sandnet.kernel.linux.vxlan.underlay import find_underlay, path_mtu
from sandnet.kernel.netlink.outside_link import full
from sandnet.kernel.netlink.rtnetlink import family_options, info, link_header, mac_and_mtu
from sandnet.kernel.netlink.socket import (
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    map_errors,
    nested,
    string,
    to_number,
    to_text,
    u32,
)
from sandnet.kernel.netlink.uapi.link_numbers import (
    IFF_UP,
    IFINFOMSG,
    IFLA_BRPORT_BCAST_FLOOD,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_NEIGH_SUPPRESS,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_PROTINFO,
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LINK,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.vxlan.base import NO_ENTRIES, EntryChanges, PeerEntries, Underlay, VxlanPort
from sandnet.model.address import Address

_log = logging.getLogger(__name__)

_LINKS: Final = ProcSysctl("/sys/class/net")
_OFF: Final = (
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_BCAST_FLOOD,
)
"""What a port towards other hosts does not do."""
_ETHERNET_MTU: Final = 1500


class _Found(NamedTuple):
    kind: str
    ifindex: int
    port: VxlanPort
    """As far as the link is one."""


class LinuxVxlanPorts:
    """The Linux implementation of :class:`sandnet.kernel.vxlan.base.VxlanPorts`."""

    def __init__(self) -> None:
        self._watcher = EntryWatcher()
        self._lock = threading.Lock()

    def ensure(self, port: VxlanPort) -> None:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.ensure`."""
        with map_errors(f"make VXLAN link {port.name} on bridge {port.bridge}"), Netlink() as netlink:
            bridge = netlink.index(port.bridge)
            if not bridge:
                raise not_found("bridge", port.bridge)
            found = _find(netlink, port.name)
            if found and found.kind != KIND:
                raise Error(Kind.CONFLICT, f"link {port.name} is there and is no VXLAN link")
            if found and _is_other(found.port, port):
                netlink.call(RTM_DELLINK, link_header(found.ifindex), accept=(errno.ENODEV,))
                found = None
            if found is None:
                _make(netlink, port)
            index = netlink.index(port.name)
            _connect(netlink, port, index, bridge)

    def find(self, name: str) -> VxlanPort | None:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.find`."""
        with map_errors(f"look up link {name}"), Netlink() as netlink:
            found = _find(netlink, name)
            return found.port if found and found.kind == KIND else None

    def entries(self, name: str, bridge: str) -> PeerEntries:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.entries`."""
        with map_errors(f"list the entries of {name}"), Netlink() as netlink:
            port, bridge_index = netlink.index(name), netlink.index(bridge)
            if not port or not bridge_index:
                return NO_ENTRIES
            return dump_entries(netlink, port, bridge_index)

    def change(self, name: str, bridge: str, removed: PeerEntries, added: PeerEntries) -> None:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.change`."""
        with map_errors(f"change the entries of {name}"), Netlink() as netlink:
            port, bridge_index = netlink.index(name), netlink.index(bridge)
            if added.total and not (port and bridge_index):
                raise not_found("link", bridge if port else name)
            change_entries(netlink, port, bridge_index, removed, added)

    def changed(self) -> EntryChanges:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.changed`."""
        with map_errors("read notifications of changed entries"), self._lock:
            return self._watcher.read()

    def underlay(self, address: Address | None) -> Underlay:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.underlay`."""
        with map_errors("find the underlay"), Netlink() as netlink:
            return find_underlay(netlink, address)

    def path_mtu(self, host: Address) -> int:
        """See :meth:`sandnet.kernel.vxlan.base.VxlanPorts.path_mtu`."""
        with map_errors(f"find the route to {host}"), Netlink() as netlink:
            return path_mtu(netlink, host)

    def close(self) -> None:
        """Close the socket of notifications; a later call opens a new one."""
        with self._lock:
            self._watcher.close()


def _find(netlink: Netlink, name: str) -> _Found | None:
    body = netlink.get(RTM_GETLINK, link_header() + string(IFLA_IFNAME, name))
    if body is None:
        return None
    _family, _type, index, flags, _change = IFINFOMSG.unpack_from(body)
    found = attributes(body, IFINFOMSG.size)
    link_info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = to_text(link_info.get(IFLA_INFO_KIND))
    data = attributes(link_info.get(IFLA_INFO_DATA, b"")) if kind == KIND else {}
    options = attributes(link_info.get(IFLA_INFO_SLAVE_DATA, b""))
    # an unspecified address is not among the attributes
    local = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6) or bytes(16)
    port = VxlanPort(
        name,
        _name(to_number(found.get(IFLA_MASTER))),
        to_number(data.get(IFLA_VXLAN_ID)),
        ip_address(local),
        int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
        to_number(found.get(IFLA_MTU)),
        isolated=bool(to_number(options.get(IFLA_BRPORT_ISOLATED))),
        underlay=_name(to_number(data.get(IFLA_VXLAN_LINK))),
        closed=bool(flags & IFF_UP) and not to_number(data.get(IFLA_VXLAN_LEARNING)) and _is_closed(options),
    )
    return _Found(kind, index, port)


def _is_closed(options: Mapping[int, bytes]) -> bool:
    """Return whether a port of a bridge learns nothing, is flooded with nothing, and has its neighbours answered."""
    opened = any(to_number(options.get(each)) for each in _OFF)
    return not opened and to_number(options.get(IFLA_BRPORT_NEIGH_SUPPRESS)) == 1


def _is_other(found: VxlanPort, port: VxlanPort) -> bool:
    """Return whether a link differs in what the kernel does not change."""
    fixed = [(each.vni, each.local, each.port, each.underlay) for each in (found, port)]
    return fixed[0] != fixed[1]


def _make(netlink: Netlink, port: VxlanPort) -> None:
    """Make the link, down: it belongs to no bridge yet."""
    underlay = netlink.index(port.underlay) if port.underlay else 0
    if port.underlay and not underlay:
        raise not_found("link", port.underlay)
    options = [u32(IFLA_VXLAN_LINK, underlay)] if underlay else []
    add_vxlan_link(netlink, string(IFLA_IFNAME, port.name), port.vni, port.local, port.port, *options)


def _connect(netlink: Netlink, port: VxlanPort, index: int, bridge: int) -> None:
    """Put the link onto its bridge, and set it up last: nothing passes before its options are set."""
    mtu = mac_and_mtu(mtu=port.mtu or _ETHERNET_MTU)
    try:
        netlink.call(
            RTM_SETLINK, link_header(index) + u32(IFLA_MASTER, bridge) + mtu + family_options(link_local=False)
        )
    except NetlinkError as error:
        raise full(port.bridge) if error.errno == errno.EXFULL else error from error
    learning = info(KIND, attribute(IFLA_VXLAN_LEARNING, b"\0"))
    netlink.call(RTM_NEWLINK, link_header(index) + learning)
    off = [attribute(each, b"\0") for each in _OFF]
    on = [attribute(IFLA_BRPORT_NEIGH_SUPPRESS, b"\1"), attribute(IFLA_BRPORT_ISOLATED, bytes([port.isolated]))]
    header = link_header(index, family=socket.AF_BRIDGE)
    netlink.call(RTM_SETLINK, header + nested(IFLA_PROTINFO, *off, *on))
    _collect_segments(port)
    netlink.call(RTM_SETLINK, link_header(index, up=True))


def _collect_segments(port: VxlanPort) -> None:
    """Set how long arriving segments are held (Documentation/ABI/testing/sysfs-class-net); without that all works."""
    try:
        set_where_different(_LINKS, f"{port.name}/gro_flush_timeout", str(port.gro_flush_timeout))
    except Error as failure:
        _log.info("%s: segments of encrypted streams are not joined: %s", port.name, failure)


def _name(index: int) -> str:
    """Return the name of a link; empty: none, or it was deleted."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""
