"""Recognizes a pair by its ends, and renames the host end back, where another program renamed it."""

from __future__ import annotations

from sandnet.errors import Error, Kind
from sandnet.kernel.netlink.rtnetlink import dump_ports, get_device, link_header, namespace_number
from sandnet.kernel.netlink.socket import Netlink, string
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFNAME
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.types import RETIRED, Veth


def is_pair(here: Netlink, there: Netlink, namespace: int, veth: Veth) -> bool:
    """Return whether the host link exists, is not retired, and its other end is the interface in the namespace.

    Args:
        here: the host.
        there: the namespace.
        namespace: a descriptor of it.
        veth: the desired state of the pair.

    Raises:
        Error: ``CONFLICT`` a link of another kind has that name.
    """
    host = get_device(here, veth.host_link)
    if host is None:
        return False
    if host.link.kind != "veth":
        raise Error(Kind.CONFLICT, f"link {veth.host_link} is there and is no veth")
    joined = host.peer_namespace >= 0 and host.peer_namespace == namespace_number(here, namespace)
    return joined and host.link.group != RETIRED and there.index(veth.interface) == host.peer


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
