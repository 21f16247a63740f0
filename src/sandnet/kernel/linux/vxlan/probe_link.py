"""A socket that receives the probes of other hosts by the VXLAN port, as overlay networks receive their frames.

The kernel owns the UDP port, so the probes have a VXLAN link of their own. It is in a network namespace that only the
socket keeps alive: what another host sends to that link meets no address, no route and no program. Link and namespace
end with the socket, whatever ends the daemon.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from sandnet.kernel.linux.vxlan.new_link import add_vxlan_link
from sandnet.kernel.netlink.rtnetlink import family_options, link_header, to_namespace
from sandnet.kernel.netlink.socket import (
    Netlink,
    map_errors,
    string,
)
from sandnet.kernel.netlink.uapi.link_numbers import (
    IFLA_IFNAME,
)
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.syscalls import OWN_NAMESPACE, restoring_namespace, unshare_network
from sandnet.kernel.vxlan.base import PROBE_PROTOCOL, PROBE_VNI
from sandnet.model.address import Address

_NAME: Final = "probes"


def open_probe_socket(local: Address, port: int) -> socket.socket:
    """Return a socket that receives what is sent to a UDP port with the VNI of probes; call it on a worker thread.

    Each datagram that it receives is a frame, from its Ethernet header on.

    Args:
        local: the host's address for other hosts; only its IP version matters.
        port: the UDP port of VXLAN.

    Raises:
        Error: ``CONFLICT``, code ``vni_taken``: another link of this host has that VNI and port; ``UNAVAILABLE`` the
            kernel has no VXLAN.
    """
    with map_errors("make the link for probes of other hosts"), Netlink() as host, restoring_namespace():
        unshare_network()
        namespace = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            attributes = string(IFLA_IFNAME, _NAME) + to_namespace(namespace)
            add_vxlan_link(host, attributes, PROBE_VNI, local, port)
        finally:
            os.close(namespace)
        return _opened()


def _opened() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        with Netlink() as inside:
            header = link_header(inside.index(_NAME), up=True)
            inside.call(RTM_SETLINK, header + family_options(link_local=False))
        made.bind((_NAME, PROBE_PROTOCOL))  # while the link is down, the first thing received would be an error
    except BaseException:
        made.close()
        raise
    return made
