"""A tap as the port of a bridge."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.taps.device import make_tap
from sandnet.kernel.netlink.outside_link import full, set_up_port
from sandnet.kernel.netlink.rtnetlink import delete_group, get_link, link_header, mac_and_mtu
from sandnet.kernel.netlink.socket import Netlink, NetlinkError, map_errors, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFNAME, IFLA_MASTER
from sandnet.kernel.netlink.uapi.message_numbers import RTM_SETLINK
from sandnet.kernel.types import DELETING, RETIRED, Link, Veth
from sandnet.model.link_names import link_mac
from sandnet.model.tap import TAP_KIND, TapOptions

_ATTEMPTS: Final = 2


def plug_tap(veth: Veth, options: TapOptions, reap: Callable[[], None]) -> None:
    """See :meth:`sandnet.kernel.base.Links.plug_tap`.

    Its own MAC is set, too. The emulator can change it, and a bridge delivers to the host what is sent to the MAC of
    one of its ports. With the MAC of a neighbour it would take the neighbour's packets.

    Args:
        veth: the link.
        options: those of the tap.
        reap: deletes the retired links, which may occupy the last ports of the bridge.
    """
    with map_errors(f"plug tap {veth.host_link} into bridge {veth.master}"), Netlink() as here:
        bridge = here.index(veth.master)
        if not bridge:
            raise not_found("bridge", veth.master)
        link, made = _ensured(here, veth.host_link, options, reap)
        own = link_header() + string(IFLA_IFNAME, veth.host_link) + mac_and_mtu(link_mac(veth.host_link), veth.mtu)
        here.call(RTM_SETLINK, own)
        if link.master != bridge:
            _join_bridge(here, veth, bridge, reap, made=made)
        set_up_port(here, veth, link.ifindex, bridge, made=made)


def _ensured(here: Netlink, name: str, options: TapOptions, reap: Callable[[], None]) -> tuple[Link, bool]:
    """Return the tap, and whether it was made. A retired link of that name is deleted first."""
    link = get_link(here, name)
    if link and link.group == RETIRED:
        reap()
        link = None
    made = link is None
    if made:
        try:
            make_tap(name, options)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
        link = get_link(here, name)
    if link is None:
        raise not_found("link", name)
    if link.kind != TAP_KIND:
        raise Error(Kind.CONFLICT, f"link {name} is there and is no tap")
    return link, made


def _join_bridge(here: Netlink, veth: Veth, bridge: int, reap: Callable[[], None], *, made: bool) -> None:
    """Make the tap a port of the bridge; delete a new one for which the bridge has no place."""
    named = link_header() + string(IFLA_IFNAME, veth.host_link)
    for attempt in range(_ATTEMPTS):
        try:
            here.call(RTM_SETLINK, named + u32(IFLA_MASTER, bridge))
        except NetlinkError as error:
            if error.errno != errno.EXFULL:
                raise
            if attempt + 1 < _ATTEMPTS:
                reap()
                continue
            if made:
                here.call(RTM_SETLINK, named + u32(IFLA_GROUP, DELETING))
                delete_group(here, DELETING)
            raise full(veth.master) from error
        else:
            return
