"""Limits of ports in the kernel.

What goes to the sandbox is sent by its port, and waits there in a token bucket (tc-tbf(8)). What comes from it arrives
at the port, where nothing can wait. So it is redirected to a device of its own (``ifb``) before anything else sees it,
waits in the bucket of that one, and arrives at the port again: bridge and packet filter know it as the port's. Nothing
inside the sandbox is needed, so its root cannot lift the limit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.shaping.traffic_control import (
    dump_qdiscs,
    limit_sending,
    redirect_received,
    redirected_to,
    stop_limiting,
    stop_redirecting,
)
from sandnet.kernel.netlink.rtnetlink import delete_group, family_options, get_link, info, link_header, list_links
from sandnet.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Netlink, map_errors, string, u32
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFNAME
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.types import DELETING, NO_LIMITS, PortLimits, Rate
from sandnet.model.link_names import PORT_PREFIX, shaper_name


class LinuxTrafficLimits:
    """The Linux implementation of :class:`sandnet.kernel.base.TrafficLimits`."""

    def ensure(self, port: str, limits: PortLimits) -> None:
        """See :meth:`sandnet.kernel.base.TrafficLimits.ensure`."""
        with _needs_modules(), map_errors(f"limit the traffic of link {port}"), Netlink() as netlink:
            index = netlink.index(port)
            if not index:
                raise not_found("link", port)
            if limits.ingress:
                limit_sending(netlink, index, limits.ingress)
            else:
                stop_limiting(netlink, index)
            if limits.egress:
                _limit_receiving(netlink, port, index, limits.egress)
            else:
                stop_redirecting(netlink, index)
                _delete(netlink, shaper_name(port))

    def list(self) -> Mapping[str, PortLimits]:
        """See :meth:`sandnet.kernel.base.TrafficLimits.list`."""
        with map_errors("look at the limits of traffic"), Netlink() as netlink:
            qdiscs = list(dump_qdiscs(netlink))
            if not qdiscs:
                return {}
            links = list_links(netlink)
            names = {link.ifindex: link.name for link in links if link.kind != "ifb" or link.up}
            sending = {qdisc.ifindex: qdisc.rate for qdisc in qdiscs if qdisc.rate}
            found: dict[str, PortLimits] = {}
            for qdisc in qdiscs:
                port = names.get(qdisc.ifindex, "")
                if not port.startswith(PORT_PREFIX):
                    continue
                limits = found.get(port, NO_LIMITS)
                if qdisc.rate:
                    found[port] = limits._replace(ingress=qdisc.rate)
                elif names.get(target := redirected_to(netlink, qdisc.ifindex)) == shaper_name(port):
                    found[port] = limits._replace(egress=sending.get(target))
            return found


@contextmanager
def _needs_modules() -> Iterator[None]:
    """Name what the kernel needs where it has no queueing discipline, filter, action or device of that kind."""
    try:
        yield
    except Error as failure:
        if failure.kind is not Kind.UNAVAILABLE and "unknown" not in failure.message:
            raise
        hint = "load the modules sch_tbf, sch_ingress, cls_u32, act_mirred and ifb"
        raise Error(Kind.UNAVAILABLE, failure.message, hint, "no_traffic_limits") from failure


def _limit_receiving(netlink: Netlink, port: str, index: int, rate: Rate) -> None:
    name = shaper_name(port)
    body = link_header() + string(IFLA_IFNAME, name) + info("ifb")
    netlink.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))
    shaper = netlink.index(name)
    if not shaper:
        raise not_found("link", name)
    netlink.call(RTM_SETLINK, link_header(shaper) + family_options(link_local=False))
    limit_sending(netlink, shaper, rate)
    netlink.call(RTM_SETLINK, link_header(shaper, up=True))
    if redirected_to(netlink, index) != shaper:
        redirect_received(netlink, index, shaper)


def _delete(netlink: Netlink, name: str) -> None:
    link = get_link(netlink, name)
    if link and link.kind == "ifb":
        netlink.call(RTM_SETLINK, link_header(link.ifindex) + u32(IFLA_GROUP, DELETING))
        delete_group(netlink, DELETING)
