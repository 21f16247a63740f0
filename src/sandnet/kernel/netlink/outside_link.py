"""A veth pair whose inner end stays on the host, until a container engine moves it into a namespace of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.netlink.neighbours import port_entries
from sandnet.kernel.netlink.rtnetlink import (
    alias,
    family_options,
    get_link,
    link_header,
    mac_and_mtu,
    mac_bytes,
    port_options,
    veth_info,
)
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, map_errors, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFNAME, IFLA_MASTER
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.types import PORTS, RETIRED, Link, Veth

_FULL: Final = "the kernel allows 1023 ports"


def plug_outside(veth: Veth, *, make: bool, reap: Callable[[], None]) -> None:
    """See :meth:`sandnet.kernel.base.Links.plug_outside`.

    Args:
        veth: the pair.
        make: whether to create an absent pair.
        reap: deletes the retired links, which may occupy the last ports of the bridge.
    """
    with map_errors(f"plug {veth.host_link} into bridge {veth.master}"), Netlink() as here:
        bridge = here.index(veth.master)
        if not bridge:
            raise not_found("bridge", veth.master)
        made = make and _make_pair(here, veth, bridge, reap)
        link = _existing(here, veth)
        if not made:
            body = link_header() + string(IFLA_IFNAME, veth.host_link)
            here.call(RTM_SETLINK, body + u32(IFLA_MASTER, bridge) + mac_and_mtu(mtu=veth.mtu))
        set_up_port(here, veth, link.ifindex, bridge, made=made)


def set_up_port(here: Netlink, veth: Veth, index: int, bridge: int, *, made: bool) -> None:
    """Set a link of the host up as the port of a bridge that it is on: options, group, alias, neighbour entries.

    A port that is to be isolated forwards nothing before it is, as long as it was down before.

    Args:
        here: a socket of the host's namespace.
        veth: the link.
        index: its index.
        bridge: the index of the bridge.
        made: whether the link is new.
    """
    if veth.isolated or veth.hairpin or not made:
        here.call(RTM_SETLINK, port_options(index, isolated=veth.isolated, hairpin=veth.hairpin))
    named = string(IFLA_IFNAME, veth.host_link) + u32(IFLA_GROUP, PORTS) + family_options(link_local=False)
    here.call(RTM_SETLINK, link_header(up=True) + named + alias(veth.alias))
    if made:
        here.batch([*port_entries(index, bridge, mac_bytes(veth.mac), veth.own_addresses)])


def _make_pair(here: Netlink, veth: Veth, bridge: int, reap: Callable[[], None]) -> bool:
    """Return whether the pair was made; ``False``: it exists."""
    host = string(IFLA_IFNAME, veth.host_link) + u32(IFLA_MASTER, bridge) + mac_and_mtu(mtu=veth.mtu)
    body = link_header() + host + veth_info(veth.interface, None, mac_and_mtu(veth.mac, veth.mtu))
    for last in (False, True):
        try:
            here.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                return False
            if error.errno != errno.EXFULL:
                raise
            if last:
                raise full(veth.master) from error
            reap()
        else:
            return True
    raise AssertionError("unreachable: the second attempt ends the loop")


def full(bridge: str) -> Error:
    """Return the error for a bridge without a free port."""
    message = f"bridge {bridge} is full: {_FULL}"
    return Error(Kind.EXHAUSTED, message, "use another network", "network_full")


def _existing(here: Netlink, veth: Veth) -> Link:
    link = get_link(here, veth.host_link)
    if link is None or link.group == RETIRED:
        raise not_found("link", veth.host_link)
    if link.kind != "veth":
        raise Error(Kind.CONFLICT, f"link {veth.host_link} is there and is no veth")
    return link
