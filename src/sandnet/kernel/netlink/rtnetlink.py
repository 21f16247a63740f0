"""The few rtnetlink requests we make, as functions over a :class:`Netlink` socket.

Layouts and numbers: ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/if_addr.h``, ``linux/net_namespace.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Interface, ip_interface
from typing import Final, NamedTuple

from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    Request,
    attribute,
    attributes,
    nested,
    string,
    to_number,
    to_text,
    u32,
)
from sandnet.kernel.netlink.uapi.address_numbers import IFA_ADDRESS, IFA_CACHEINFO, IFA_F_NODAD, IFA_LOCAL, IFADDRMSG
from sandnet.kernel.netlink.uapi.link_numbers import (
    IF_OPER_LOWERLAYERDOWN,
    IFF_LOWER_UP,
    IFF_UP,
    IFINFOMSG,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_BR_GROUP_FWD_MASK,
    IFLA_BR_MCAST_SNOOPING,
    IFLA_BR_MULTI_BOOLOPT,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE,
    IFLA_EXT_MASK,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INET_CONF,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_OPERSTATE,
    IFLA_PROTINFO,
    IFLA_QDISC,
    IN6_ADDR_GEN_MODE_EUI64,
    IN6_ADDR_GEN_MODE_NONE,
    VETH_INFO_PEER,
)
from sandnet.kernel.netlink.uapi.message_numbers import (
    RTEXT_FILTER_SKIP_STATS,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNSID,
    RTM_NEWADDR,
    RTM_SETLINK,
)
from sandnet.kernel.types import Link, PackedPrefix, Port
from sandnet.model.address import Address, Interface

_AT_ONCE: Final = 500
"""Changes in one datagram: about 50 KB, less than a socket may usually send."""

_NO_LINK_LOCAL_LEARN: Final = 1
"""``BR_BOOLOPT_NO_LL_LEARN`` is option 0 of ``struct br_boolopt_multi``."""
_BRIDGE_GROUPS: Final = 0xFFF8
"""01:80:c2:00:00:03 to 0f; the kernel refuses to forward 01 and 02 (``BR_GROUPFWD_RESTRICTED``)."""
_ARP_ANNOUNCE: Final = 18
_ARP_IGNORE: Final = 19
_NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3
_NETCONFA_IFINDEX: Final = 1

_NEVER_SOURCE: Final = attribute(IFA_CACHEINFO, struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0))
"""``struct ifa_cacheinfo``: preferred no longer (deprecated, RFC 4862, 5.5.4), valid for ever."""

_NO_STATISTICS: Final = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
_NO_LINK_LOCAL: Final = nested(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE])))
_LINK_LOCAL: Final = nested(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_EUI64])))
_OWN_ADDRESSES_ONLY: Final = nested(socket.AF_INET, nested(IFLA_INET_CONF, u32(_ARP_ANNOUNCE, 2), u32(_ARP_IGNORE, 1)))


def family_options(*, link_local: bool, own_addresses_only: bool = False) -> bytes:
    """Encode how an existing link behaves in each family. It has the effect of writing to /proc/sys, from outside.

    Args:
        link_local: whether it may have an IPv6 address of its own accord. Where none is needed, its multicast at the
            start costs every port of the bridge (duplicate address detection, MLD).
        own_addresses_only: it answers ARP requests for its own addresses only, and sends requests from them only
            (ip-sysctl: arp_ignore, arp_announce; numbers of ``linux/ip.h``).
    """
    parts = ([] if link_local else [_NO_LINK_LOCAL]) + ([_OWN_ADDRESSES_ONLY] if own_addresses_only else [])
    return nested(IFLA_AF_SPEC, *parts) if parts else b""


def options_of_prepared(*, link_local: bool, own_addresses_only: bool) -> bytes:
    """Encode what a link that was made without an IPv6 address of its own lacks; empty: nothing.

    Args:
        link_local: as for :func:`family_options`.
        own_addresses_only: as for :func:`family_options`.
    """
    parts = ([_LINK_LOCAL] if link_local else []) + ([_OWN_ADDRESSES_ONLY] if own_addresses_only else [])
    return nested(IFLA_AF_SPEC, *parts) if parts else b""


class Device(NamedTuple):
    """A link, and the place of its other end."""

    link: Link
    peer: int
    """Index of the other end of a veth pair, in its own namespace; 0: none."""
    peer_namespace: int
    """Our namespace's number for the peer's (``ip netns list-id``); -1: ours, or none."""


def link_header(index: int = 0, *, up: bool | None = None, family: int = 0) -> bytes:
    """Encode ``struct ifinfomsg``; ``up=None`` leaves the link as it is."""
    return IFINFOMSG.pack(family, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of ``02:42:…``."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_and_mtu(mac: str = "", mtu: int = 0) -> bytes:
    """Encode attributes for a MAC and an MTU, each only when given."""
    return (attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b"") + (u32(IFLA_MTU, mtu) if mtu else b"")


def alias(text: str) -> bytes:
    """Encode the alias of an existing link (one that is being made ignores it); nothing when empty."""
    return attribute(IFLA_IFALIAS, text.encode()) if text else b""


def to_namespace(namespace: int) -> bytes:
    """Encode that an existing link moves into the namespace behind a descriptor. It arrives down, without addresses."""
    return u32(IFLA_NET_NS_FD, namespace)


def info(kind: str, *data: bytes) -> bytes:
    """Encode ``IFLA_LINKINFO``: what kind of link to make."""
    return nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, kind), *([nested(IFLA_INFO_DATA, *data)] if data else []))


def bridge_info() -> bytes:
    """Encode ``IFLA_LINKINFO`` of a bridge that takes no frame from its ports past the firewall hook.

    Frames to the groups of IEEE 802.1 (01:80:c2:00:00:0X) bypass the bridge's hook to the port's own device, and the
    bridge still learns their sender. Here it does not learn it, and such a frame is bridged, so the hook sees it.

    Nor does the bridge learn from its ports who listens to which group. A port that poses as the querier would direct
    all multicast, and neighbour discovery with it, to itself.
    """
    options = struct.pack("=II", _NO_LINK_LOCAL_LEARN, _NO_LINK_LOCAL_LEARN)
    return info(
        "bridge",
        attribute(IFLA_BR_GROUP_FWD_MASK, struct.pack("=H", _BRIDGE_GROUPS)),
        attribute(IFLA_BR_MCAST_SNOOPING, b"\0"),
        attribute(IFLA_BR_MULTI_BOOLOPT, options),
    )


def veth_info(peer: str, namespace: int | None, extra: bytes) -> bytes:
    """Encode ``IFLA_LINKINFO`` of a veth whose other end is created in ``namespace`` (a descriptor), down.

    Without a namespace, it is created beside the first one.

    The peer must not be up in this request: its other half does not exist yet (``ENOTCONN``).
    """
    where = b"" if namespace is None else u32(IFLA_NET_NS_FD, namespace)
    inner = link_header() + string(IFLA_IFNAME, peer) + where + extra
    return info("veth", nested(VETH_INFO_PEER, inner))


def port_options(index: int, *, isolated: bool, hairpin: bool) -> bytes:
    """Encode the body of the ``RTM_SETLINK`` that sets a bridge port's two options."""
    options = (
        attribute(IFLA_BRPORT_MODE, bytes([hairpin])),
        attribute(IFLA_BRPORT_ISOLATED, bytes([isolated])),
    )
    return link_header(index, family=socket.AF_BRIDGE) + nested(IFLA_PROTINFO, *options)


def _device(body: bytes) -> Device:
    return _decoded(body)[0]


def _decoded(body: bytes) -> tuple[Device, Mapping[int, bytes]]:
    """Decode a link's message; return the link, and the attributes of its kind (``IFLA_LINKINFO``)."""
    _family, _type, index, flags, _change = IFINFOMSG.unpack_from(body)
    found = attributes(body, IFINFOMSG.size)
    link_info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = link_info.get(IFLA_INFO_KIND)
    options = attributes(link_info.get(IFLA_INFO_DATA, b"")) if kind == b"bridge\0" else {}
    link = Link(
        name=to_text(found.get(IFLA_IFNAME)),
        ifindex=index,
        kind=to_text(kind),
        master=to_number(found.get(IFLA_MASTER)),
        up=bool(flags & IFF_UP),
        mtu=to_number(found.get(IFLA_MTU)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        group=to_number(found.get(IFLA_GROUP)),
        alias=to_text(found.get(IFLA_IFALIAS)),
        snooping=to_number(options.get(IFLA_BR_MCAST_SNOOPING)) != 0,
        shaped=found.get(IFLA_QDISC) == b"tbf\0",
    )
    namespace = to_number(found[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in found else -1
    return Device(link, to_number(found.get(IFLA_LINK)), namespace), link_info


def to_port(body: bytes) -> Port:
    """Decode a link's message."""
    (link, peer, namespace), link_info = _decoded(body)
    options = attributes(link_info.get(IFLA_INFO_SLAVE_DATA, b"")) if link.master else {}
    isolated = to_number(options.get(IFLA_BRPORT_ISOLATED)) != 0
    hairpin = to_number(options.get(IFLA_BRPORT_MODE)) != 0
    return Port(link, peer, namespace, isolated, hairpin)


def name_of_link(body: bytes) -> str:
    """Return the name of the link that a link's message is about."""
    return to_text(attributes(body, IFINFOMSG.size).get(IFLA_IFNAME))


def index_of_link(body: bytes) -> int:
    """Return the index of the link that a link's message is about."""
    return int(IFINFOMSG.unpack_from(body)[2])


def index_of_address(body: bytes) -> int:
    """Return the index of the link that an address's message is about."""
    return int(IFADDRMSG.unpack_from(body)[4])


def index_of_netconf(body: bytes) -> int:
    """Return the index of the link that a message about parameters is about (``linux/netconf.h``).

    0: all links, or future ones.
    """
    found: tuple[int] = struct.unpack("=i", attributes(body, 4).get(_NETCONFA_IFINDEX, bytes(4)))
    return max(found[0], 0)


def dump_ports(netlink: Netlink) -> Iterator[Port]:
    """Yield all links with their bridges and other ends."""
    return map(to_port, netlink.dump(RTM_GETLINK, link_header() + _NO_STATISTICS))


def get_port(netlink: Netlink, name: str) -> Port | None:
    """Return one link with its bridge and other end, or ``None``."""
    body = netlink.get(RTM_GETLINK, link_header() + string(IFLA_IFNAME, name) + _NO_STATISTICS)
    return to_port(body) if body else None


def dump_addresses(netlink: Netlink, index: int = 0) -> Iterator[tuple[int, PackedPrefix]]:
    """Yield addresses of both families, of all links or one, each with the index of its link."""
    for body in netlink.dump(RTM_GETADDR, IFADDRMSG.pack(0, 0, 0, 0, index)):
        _family, length, _flags, _scope, owner = IFADDRMSG.unpack_from(body)
        parts = attributes(body, IFADDRMSG.size)
        packed = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)
        if packed:
            yield owner, (packed, length)


def get_device(netlink: Netlink, name: str) -> Device | None:
    """Return the link of that name with its peer, or ``None``."""
    body = netlink.get(RTM_GETLINK, link_header() + string(IFLA_IFNAME, name) + _NO_STATISTICS)
    return _device(body) if body else None


def get_link(netlink: Netlink, name: str) -> Link | None:
    """Return the link of that name, or ``None``."""
    device = get_device(netlink, name)
    return device.link if device else None


def is_activated(netlink: Netlink, index: int) -> bool:
    """Return whether a link transmits; true as well where there is no such link, or it has no carrier to begin with.

    The kernel activates a link after its carrier is there, by a work queue that sets the operational state as well
    (Documentation/networking/operstates.rst). Since Linux 6.8 this request does that work first.
    """
    body = netlink.get(RTM_GETLINK, link_header(index) + _NO_STATISTICS)
    if not body or not IFINFOMSG.unpack_from(body)[3] & IFF_LOWER_UP:
        return True
    return to_number(attributes(body, IFINFOMSG.size).get(IFLA_OPERSTATE)) > IF_OPER_LOWERLAYERDOWN


def list_links(netlink: Netlink) -> list[Link]:
    """List all links."""
    return [_device(body).link for body in netlink.dump(RTM_GETLINK, link_header() + _NO_STATISTICS)]


def namespace_number(netlink: Netlink, namespace: int) -> int:
    """Return our namespace's number for the one behind the descriptor ``namespace``; -1: it has none yet."""
    body = netlink.get(RTM_GETNSID, bytes(4) + u32(_NETNSA_FD, namespace))
    payload = attributes(body or b"", 4).get(_NETNSA_NSID, b"\xff" * 4)
    return int(struct.unpack("=i", payload)[0])


def address_request(index: int, address: Interface) -> Request:
    """Return the request that gives a link an address, usable at once."""
    return Request(RTM_NEWADDR, _address_body(index, address), NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def _address_body(index: int, address: Interface) -> bytes:
    six = isinstance(address, IPv6Interface)
    family, flags = (socket.AF_INET6, IFA_F_NODAD) if six else (socket.AF_INET, 0)
    header = IFADDRMSG.pack(family, address.network.prefixlen, flags, 0, index)
    return header + attribute(IFA_LOCAL, address.ip.packed) + attribute(IFA_ADDRESS, address.ip.packed)


def add_address(netlink: Netlink, index: int, address: Interface) -> bool:
    """Give a link an address, usable at once; ``False``: it had it."""
    body = _address_body(index, address)
    return netlink.call(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))


def add_service_address(netlink: Netlink, index: int, address: Address) -> bool:
    """Give a link a further address that is never the source of its own connections; ``False``: it had it."""
    return netlink.call(*service_address_request(index, address))


def service_address_request(index: int, address: Address) -> Request:
    """Return the request of :func:`add_service_address`."""
    body = _address_body(index, ip_interface(address)) + (_NEVER_SOURCE if address.version == 6 else b"")
    return Request(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def remove_address(netlink: Netlink, index: int, address: Interface) -> bool:
    """Remove an address from a link; ``False``: the address or the link was absent."""
    absent = (errno.EADDRNOTAVAIL, errno.ENODEV)
    return netlink.call(RTM_DELADDR, _address_body(index, address), accept=absent)


def list_addresses(netlink: Netlink, index: int) -> list[Interface]:
    """List the addresses of both families on a link, IPv6 link-local ones included; none when there is no such link."""
    found: list[Interface] = []
    try:
        bodies = netlink.dump(RTM_GETADDR, IFADDRMSG.pack(0, 0, 0, 0, index))
    except OSError as error:
        if error.errno != errno.ENODEV:  # a retired link may be reaped at any moment
            raise
        return []
    for body in bodies:
        _family, length, _flags, _scope, owner = IFADDRMSG.unpack_from(body)
        parts = attributes(body, IFADDRMSG.size)
        packed = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)
        if packed and owner == index:
            found.append(ip_interface((packed, length)))
    return found


def change_links(netlink: Netlink, bodies: Sequence[bytes]) -> None:
    """Send changes of links (``RTM_SETLINK``), many in one datagram; absent links are success."""
    for first in range(0, len(bodies), _AT_ONCE):
        chunk = bodies[first : first + _AT_ONCE]
        netlink.batch([Request(RTM_SETLINK, body, accept=(errno.ENODEV,)) for body in chunk])


def delete_group(netlink: Netlink, group: int) -> None:
    """Delete all links of a group in one request, and so with one grace period; none is success."""
    absent = (errno.ENODEV, errno.ESRCH)
    netlink.call(RTM_DELLINK, link_header() + u32(IFLA_GROUP, group), accept=absent)
