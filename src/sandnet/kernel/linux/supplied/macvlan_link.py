"""Macvlan interfaces (``linux/if_link.h``, ``enum macvlan_mode``), and whether the kernel has such kinds of links."""

from __future__ import annotations

import errno
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.netlink.rtnetlink import family_options, get_link, info, link_header, mac_and_mtu
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, map_errors, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_IFNAME, IFLA_LINK, IFLA_MACVLAN_MODE
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.types import Macvlan
from sandnet.model.link_names import MACVLAN_KIND

_MODES: Final = {"private": 1, "vepa": 2, "bridge": 4}


def stacking_problem(kind: str) -> str:
    """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.stacking_problem`.

    Without a parent the kernel refuses a kind that it knows (``EINVAL``), and makes nothing.
    """
    with Netlink() as here:
        try:
            here.call(RTM_NEWLINK, link_header() + string(IFLA_IFNAME, "probe") + info(kind), NLM_F_CREATE)
        except NetlinkError as error:
            if error.errno == errno.EINVAL:
                return ""
            if error.errno == errno.EOPNOTSUPP:
                return f"this kernel has no {kind} (CONFIG_{kind.upper()}, module {kind})"
            return f"no {kind} interface can be made here: {error.strerror}"
    return ""


def make_macvlan(link: Macvlan) -> None:
    """See :meth:`sandnet.kernel.namespace_protocols.SuppliedLinks.make_macvlan`."""
    with map_errors(f"make interface {link.name} on {link.parent}"), Netlink() as here:
        parent = here.index(link.parent)
        if not parent:
            raise not_found("link", link.parent)
        body = link_header() + string(IFLA_IFNAME, link.name) + u32(IFLA_LINK, parent) + mac_and_mtu(link.mac, link.mtu)
        body += info(MACVLAN_KIND, u32(IFLA_MACVLAN_MODE, _MODES[link.mode]))
        here.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))
        found = get_link(here, link.name)
        if found is None or found.kind != MACVLAN_KIND:
            raise Error(Kind.CONFLICT, f"link {link.name} is there and is no {MACVLAN_KIND}")
        here.call(RTM_SETLINK, link_header(found.ifindex) + family_options(link_local=False))
