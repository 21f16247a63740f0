"""Links and their attributes (``linux/if.h``, ``linux/if_link.h``, ``linux/rtnetlink.h``)."""

from __future__ import annotations

import struct
from typing import Final

IFINFOMSG: Final = struct.Struct("=BxHiII")
"""``struct ifinfomsg``: family, type, index, flags, mask of the flags to change."""

IFF_UP: Final = 0x1
IFF_LOWER_UP: Final = 0x10000
IF_OPER_LOWERLAYERDOWN: Final = 3
"""The highest state of a link without carrier; the lowest is unknown, 0 (RFC 2863)."""
LOOPBACK: Final = 1
"""Index of ``lo``, the same in every namespace (``LOOPBACK_IFINDEX``)."""

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_QDISC: Final = 6
IFLA_MASTER: Final = 10
IFLA_PROTINFO: Final = 12
IFLA_OPERSTATE: Final = 16
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_LINK_NETNSID: Final = 37

IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_DATA: Final = 5

IFLA_BR_GROUP_FWD_MASK: Final = 9
IFLA_BR_MCAST_SNOOPING: Final = 23
IFLA_BR_MULTI_BOOLOPT: Final = 46

IFLA_BRPORT_MODE: Final = 4
IFLA_BRPORT_LEARNING: Final = 8
IFLA_BRPORT_UNICAST_FLOOD: Final = 9
IFLA_BRPORT_MCAST_FLOOD: Final = 27
IFLA_BRPORT_BCAST_FLOOD: Final = 30
IFLA_BRPORT_NEIGH_SUPPRESS: Final = 32
IFLA_BRPORT_ISOLATED: Final = 33

IFLA_INET_CONF: Final = 1
IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_EUI64: Final = 0
IN6_ADDR_GEN_MODE_NONE: Final = 1

IFLA_MACVLAN_MODE: Final = 1

IFLA_VXLAN_ID: Final = 1
IFLA_VXLAN_LINK: Final = 3
IFLA_VXLAN_LOCAL: Final = 4
IFLA_VXLAN_LEARNING: Final = 7
IFLA_VXLAN_PORT: Final = 15
IFLA_VXLAN_LOCAL6: Final = 17

VETH_INFO_PEER: Final = 1
