"""Make VXLAN links that learn nothing.

Layouts and numbers: ``linux/if_link.h``.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from sandnet.errors import VNI_TAKEN, Error, Kind
from sandnet.kernel.netlink.rtnetlink import info, link_header
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, attribute, u32
from sandnet.kernel.netlink.uapi.link_numbers import (
    IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING,
    IFLA_VXLAN_LOCAL,
    IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK
from sandnet.model.address import Address

KIND: Final = "vxlan"


def add_vxlan_link(netlink: Netlink, attributes: bytes, vni: int, local: Address, port: int, *options: bytes) -> None:
    """Make a link, down.

    Args:
        netlink: of the namespace whose UDP port it uses.
        attributes: of the link: its name, and where it is if not in that namespace.
        vni: VXLAN network identifier.
        local: source of its packets.
        port: UDP port that it sends to and receives.
        options: further options of VXLAN.

    Raises:
        Error: ``CONFLICT``, code ``vni_taken``: another link of this host has that VNI and port.
        NetlinkError: the kernel refuses.
    """
    closed = [
        u32(IFLA_VXLAN_ID, vni),
        attribute(IFLA_VXLAN_LOCAL if local.version == 4 else IFLA_VXLAN_LOCAL6, local.packed),
        attribute(IFLA_VXLAN_LEARNING, b"\0"),
        attribute(IFLA_VXLAN_PORT, struct.pack("!H", port)),
    ]
    body = link_header() + attributes + info(KIND, *closed, *options)
    try:
        netlink.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
        message = f"another VXLAN link of this host has the VNI {vni} and UDP port {port}"
        raise Error(Kind.CONFLICT, message, "delete it, or choose another vni or UDP port", VNI_TAKEN) from error
