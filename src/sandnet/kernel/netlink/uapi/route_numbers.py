"""Routes and routing rules (``linux/rtnetlink.h``, ``linux/fib_rules.h``)."""

from __future__ import annotations

import struct
from typing import Final

RTMSG: Final = struct.Struct("=BBBBBBBBI")
"""``struct rtmsg``: family, lengths of destination and source, TOS, table, protocol, scope, type, flags."""
FIB_RULE_HDR: Final = struct.Struct("=BBBBBBBBI")
"""``struct fib_rule_hdr``: family, lengths of destination and source, TOS, table, two unused, action, flags."""
RTNEXTHOP: Final = struct.Struct("=HBBi")
"""``struct rtnexthop``: length, flags, weight less 1, index of the link."""

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
RTAX_MTU: Final = 2

RTM_F_CLONED: Final = 0x200
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTN_ANYCAST: Final = 4
RTN_MULTICAST: Final = 5
RTN_BLACKHOLE: Final = 6
RTPROT_KERNEL: Final = 2
RTPROT_STATIC: Final = 4
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254
RT_TABLE_LOCAL: Final = 255

FRA_SRC: Final = 2
FRA_PRIORITY: Final = 6
FRA_SUPPRESS_PREFIXLEN: Final = 14
FRA_TABLE: Final = 15
FRA_L3MDEV: Final = 19
FRA_PROTOCOL: Final = 21
FRA_IP_PROTO: Final = 22
FRA_SPORT_RANGE: Final = 23
FR_ACT_TO_TBL: Final = 1
