"""A tap inside a sandbox, joined to the sandbox's interface: what one receives, the other sends.

Traffic control redirects each frame (tc-mirred(8)) before the namespace's own stack sees it, as Kata Containers and
Firecracker's plugin ``tc-redirect-tap`` do. So there is no second bridge, and no second MAC on the network's port.
"""

from __future__ import annotations

import errno

from sandnet.errors import Error, Kind
from sandnet.kernel.linux.shaping.traffic_control import redirect_received, redirected_to
from sandnet.kernel.linux.taps.device import make_tap
from sandnet.kernel.netlink.rtnetlink import family_options, get_link, link_header, mac_and_mtu
from sandnet.kernel.netlink.socket import Netlink
from sandnet.kernel.netlink.uapi.message_numbers import RTM_DELLINK, RTM_SETLINK
from sandnet.kernel.syscalls import in_namespace
from sandnet.kernel.types import InnerTap, Link, Veth
from sandnet.model.tap import TAP_KIND


def ensure_inner_tap(there: Netlink, namespace: int, veth: Veth, tap: InnerTap) -> None:
    """Ensure that the tap is there, up, and joined to the interface. One that exists keeps its owner.

    Args:
        there: a socket of the sandbox's namespace.
        namespace: a descriptor of that namespace.
        veth: the link, which is plugged.
        tap: the tap.

    Raises:
        Error: ``CONFLICT`` with code ``interface_taken``: another program's link has the name; ``UNAVAILABLE`` with
            code ``no_taps``.
        NetlinkError: the kernel refuses.
    """
    found = get_link(there, tap.name) or _made(there, namespace, tap)
    if found.kind != TAP_KIND:
        message = f"the name {tap.name} is taken in the namespace"
        raise Error(Kind.CONFLICT, message, "remove that link", "interface_taken")
    # a separate request: in one with the next, the link is up before this takes effect
    there.call(RTM_SETLINK, link_header(found.ifindex) + family_options(link_local=False))
    there.call(RTM_SETLINK, link_header(found.ifindex, up=True) + mac_and_mtu(mtu=veth.mtu))
    inner = there.index(veth.interface)
    for index, target in ((inner, found.ifindex), (found.ifindex, inner)):
        if redirected_to(there, index) != target:
            redirect_received(there, index, target)


def inner_tap_problem(there: Netlink, veth: Veth, tap: InnerTap) -> str:
    """Return what is wrong with the tap, as text; empty: nothing."""
    found = get_link(there, tap.name)
    if found is None or found.kind != TAP_KIND:
        return f"there is no tap {tap.name}"
    if not found.up:
        return f"tap {tap.name} is down"
    if veth.mtu not in (0, found.mtu):
        return f"the MTU of tap {tap.name} is {found.mtu}, not {veth.mtu}"
    inner = there.index(veth.interface)
    ends = (inner, found.ifindex), (found.ifindex, inner)
    if any(redirected_to(there, index) != target for index, target in ends):
        return f"tap {tap.name} and {veth.interface} are not joined"
    return ""


def delete_inner_tap(there: Netlink, name: str) -> None:
    """Delete the tap, whether it is open or not; an absent one, and a link of another kind, are left alone."""
    found = get_link(there, name)
    if found and found.kind == TAP_KIND:
        there.call(RTM_DELLINK, link_header(found.ifindex), accept=(errno.ENODEV,))


def _made(there: Netlink, namespace: int, tap: InnerTap) -> Link:
    with in_namespace(namespace):
        try:
            make_tap(tap.name, tap.options)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
    found = get_link(there, tap.name)
    if found is None:
        raise Error(Kind.UNAVAILABLE, f"tap {tap.name} was deleted again", code="no_taps")
    return found
