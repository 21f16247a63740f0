"""Renames the host end of a pair back, where another program renamed it."""

from __future__ import annotations

from sandnet.kernel.netlink.rtnetlink import IFLA_IFNAME, RTM_SETLINK, dump_ports, get_device, link_header
from sandnet.kernel.netlink.socket import Netlink, string
from sandnet.kernel.types import Veth


def rename_back(here: Netlink, there: Netlink, namespace: int, veth: Veth, group: int) -> None:
    """Rename back the link whose other end is the interface in the namespace, if its alias names this pair.

    Nothing is done where the name is taken, or where the link belongs to another attachment.

    Args:
        here: the host.
        there: the namespace.
        namespace: the host's number for it.
        veth: the desired state of the pair.
        group: the link group of all our ports.
    """
    inner = get_device(there, veth.interface)
    if not veth.alias or inner is None or inner.peer <= 0 or namespace < 0 or here.index(veth.host_link):
        return
    identity = (inner.peer, inner.link.ifindex, namespace, group, veth.alias)
    for port in dump_ports(here):
        if (port.link.ifindex, port.peer, port.peer_namespace, port.link.group, port.link.alias) == identity:
            # not every kernel renames a link that is up
            here.call(RTM_SETLINK, link_header(port.link.ifindex, up=False))
            here.call(RTM_SETLINK, link_header(port.link.ifindex) + string(IFLA_IFNAME, veth.host_link))
