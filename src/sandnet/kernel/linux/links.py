"""Bridges and veth pairs of the host, in the kernel.

Every call opens its own sockets, in the namespace of the calling thread. So workers share nothing, and nothing is stale
after a restart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_interface
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.linux.pairs.interface import announces_itself, bridge_entries
from sandnet.kernel.linux.pairs.new_pair import Ends, index_of, make_pair, refusal, set_up_new
from sandnet.kernel.linux.pairs.prepared_link import host_batches, inner_requests, send
from sandnet.kernel.linux.raw_frames.gratuitous_arp import DELAYS, Announcer, Claim, announce
from sandnet.kernel.linux.raw_frames.neighbour_history import NeighbourHistory
from sandnet.kernel.linux.raw_frames.router_solicitation import solicit_routers
from sandnet.kernel.linux.service_addresses import await_delivery, place_service_addresses, shared_addresses
from sandnet.kernel.linux.sysctl import ProcSysctl, set_where_different
from sandnet.kernel.linux.taps.tap_link import plug_tap
from sandnet.kernel.netlink.neighbours import announcement, change_kept, forgetting, keep_neighbour, port_entries
from sandnet.kernel.netlink.outside_link import plug_outside
from sandnet.kernel.netlink.renaming import is_pair, rename_back
from sandnet.kernel.netlink.routes import add_connected
from sandnet.kernel.netlink.rtnetlink import (
    add_address,
    add_service_address,
    alias,
    bridge_info,
    change_links,
    delete_group,
    family_options,
    get_link,
    link_header,
    list_addresses,
    list_links,
    mac_and_mtu,
    mac_bytes,
    namespace_number,
    port_options,
    remove_address,
)
from sandnet.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    map_errors,
    string,
    u32,
)
from sandnet.kernel.netlink.uapi.link_numbers import IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_MASTER, LOOPBACK
from sandnet.kernel.netlink.uapi.message_numbers import RTM_NEWLINK, RTM_SETLINK
from sandnet.kernel.syscalls import NotANetworkNamespaceError, in_namespace, opened_namespace
from sandnet.kernel.types import DELETING, PORTS, RETIRED, Bridge, DefaultRoute, Link, PreparedSandbox, Veth
from sandnet.model.address import Address, Interface
from sandnet.model.link_names import BRIDGE_LINK_LOCAL, link_mac, with_shapers
from sandnet.model.tap import TapOptions

MAX_PORTS: Final = 1023
"""Ports a bridge can have: they are numbered below ``BR_MAX_PORTS``, 1024, and 0 is reserved."""


class LinuxLinks:
    """The Linux implementation of :class:`sandnet.kernel.base.Links`."""

    def __init__(self) -> None:
        self._announcer = Announcer()
        self._history = NeighbourHistory()
        self._sysctl = ProcSysctl()

    def list(self) -> Sequence[Link]:
        """List all links of the host's namespace."""
        with map_errors("list links"), Netlink() as here:
            return list_links(here)

    def find(self, name: str) -> Link | None:
        """Return the link of that name, or ``None``."""
        with map_errors(f"look up link {name}"), Netlink() as here:
            return get_link(here, name)

    def ensure_bridge(self, bridge: Bridge) -> None:
        """Make the bridge if it is absent; give it its MAC, MTU and addresses; set it up."""
        with map_errors(f"make bridge {bridge.name}"), Netlink() as here:
            desired = mac_and_mtu(link_mac(bridge.name), bridge.mtu)
            body = link_header() + string(IFLA_IFNAME, bridge.name) + desired + bridge_info()
            made = here.call(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, accept=(errno.EEXIST,))
            link = _bridge(here, bridge.name)
            if made:
                (self._history.begin if bridge.new else self._history.forget)(bridge.name)
            for name, value in bridge.parameters:
                set_where_different(self._sysctl, name, value)
            no_link_local = family_options(link_local=False)
            here.call(RTM_SETLINK, link_header(link.ifindex, up=True) + desired + no_link_local + alias(bridge.alias))
            if link.snooping:  # made by an earlier release, or switched on by another program
                here.call(RTM_NEWLINK, link_header() + string(IFLA_IFNAME, bridge.name) + bridge_info())
            has_ipv6 = any(address.version == 6 for address in bridge.addresses)
            for address in (*bridge.addresses, *((BRIDGE_LINK_LOCAL,) if has_ipv6 else ())):
                _ensure_address(here, link.ifindex, address, made=made)

    def adopt_bridge(self, bridge: Bridge) -> None:
        """Give an existing bridge the addresses it lacks and set it up."""
        with map_errors(f"adopt bridge {bridge.name}"), Netlink() as here:
            link = _bridge(here, bridge.name)
            for address in bridge.addresses:
                add_address(here, link.ifindex, address)
            here.call(RTM_SETLINK, link_header(link.ifindex, up=True))

    def remove_addresses(self, name: str, addresses: Iterable[Interface]) -> None:
        """Remove the addresses from the link; an absent link or address is success.

        Unless ``promote_secondaries`` is set, the kernel drops all other addresses of a subnet with its first one. They
        may belong to another program, so they are added again.
        """
        with map_errors(f"remove addresses from {name}"), Netlink() as here:
            link = get_link(here, name)
            if link is None:
                return
            unwanted = list(addresses)
            others = [held for held in list_addresses(here, link.ifindex) if held not in unwanted]
            for address in unwanted:
                remove_address(here, link.ifindex, address)
            kept = list_addresses(here, link.ifindex)
            for address in others:
                if address not in kept:
                    add_address(here, link.ifindex, address)

    def addresses(self, name: str) -> Sequence[Interface]:
        """List the addresses on a link, IPv6 link-local ones included; empty when it is absent."""
        with map_errors(f"list addresses of {name}"), Netlink() as here:
            link = get_link(here, name)
            return list_addresses(here, link.ifindex) if link else []

    def delete(self, names: Iterable[str]) -> None:
        """Delete links in bulk (one grace period for all); absent ones are success.

        Raises:
            Error: ``CONFLICT`` when one is no virtual device (a network card, ``lo``); nothing is deleted then.
        """
        with map_errors("delete links"), Netlink() as here:
            present = [link for name in with_shapers(names) if (link := get_link(here, name))]
            for link in present:
                if not link.kind:
                    raise Error(Kind.CONFLICT, f"link {link.name} is a device that cannot be deleted")
                self._history.forget(link.name)
            group = u32(IFLA_GROUP, DELETING)
            change_links(here, [link_header(link.ifindex) + group for link in present])
            if present:
                delete_group(here, DELETING)

    def plug(self, namespace: str, veth: Veth, *, is_new: bool = False) -> None:
        """Ensure the pair: the host end on the bridge and up, the other end in the namespace and up.

        A host end that is to be isolated forwards nothing before it is.
        """
        with self._ends(namespace, veth) as ends:
            made = self._ensure_pair(ends, veth)
            is_new = is_new or made
            outdated = self._history.outdated(veth) if is_new else ()
            self._history.doubt(veth)
            if not (made and set_up_new(ends, veth, outdated)):
                self._bring_into_line(ends, veth, outdated, made=made, is_new=is_new)
            place_service_addresses(ends.there, index_of(ends.there, veth.interface), veth)
            self._announce(ends, namespace, veth, outdated)
            await_delivery(ends.here, ends.there, veth)

    def _bring_into_line(
        self, ends: Ends, veth: Veth, outdated: Sequence[Address], *, made: bool, is_new: bool
    ) -> None:
        """Set up a pair that exists, or one that was just made and that the kernel refuses to set up at once.

        Where the kernel refused the host's batch, the one inside was not sent. What was sent is repeated.
        """
        if not made:
            _update_pair(ends, veth)
        port, inner = index_of(ends.here, veth.host_link), index_of(ends.there, veth.interface)
        ends.here.call(RTM_SETLINK, port_options(port, isolated=veth.isolated, hairpin=veth.hairpin))
        no_link_local = family_options(link_local=False)
        named = string(IFLA_IFNAME, veth.host_link) + u32(IFLA_GROUP, PORTS)
        ends.here.call(RTM_SETLINK, link_header(up=True) + named + no_link_local + alias(veth.alias))
        shares = bool(veth.service or veth.service_ipv6)
        options = family_options(link_local=veth.address_ipv6 is not None, own_addresses_only=shares)
        if options:  # a separate request: in one with the next, the link is up before this takes effect
            ends.there.call(RTM_SETLINK, link_header(inner) + options)
        ends.there.call(RTM_SETLINK, link_header(inner, up=True))
        for address in (veth.address_ipv6, veth.address):  # the slower one first
            if address:
                _ensure_address_inside(ends, inner, veth.interface, address)
        for further in veth.additional_addresses:
            add_service_address(ends.there, inner, further)
        for request in bridge_entries(inner, veth):
            ends.there.call(*request)
        if is_new:
            ends.here.batch([*port_entries(port, ends.bridge, mac_bytes(veth.mac), veth.own_addresses)])
        if announces_itself(veth, outdated):
            ends.there.call(*announcement(inner, outdated[0]))

    def plug_prepared(
        self, namespace: str, prepared: PreparedSandbox, veth: Veth, routes: Sequence[DefaultRoute]
    ) -> bool:
        """Do as :meth:`plug` with the link of a prepared sandbox, and set its default routes."""
        what = f"plug {veth.interface} of {namespace} into bridge {veth.master}"
        with map_errors(what), Netlink() as here, Netlink.inside(prepared.namespace) as there:
            bridge = here.index(veth.master)
            if not bridge:
                raise not_found("bridge", veth.master)
            ends = Ends(here, there, prepared.namespace, bridge)
            outdated = self._history.outdated(veth)
            self._history.doubt(veth)
            host, inner = host_batches(prepared, veth, bridge), [*inner_requests(prepared, veth, routes, outdated)]
            try:
                if not send(here, there, host, inner, self.reap):
                    return False
            except NetlinkError as error:
                raise refusal(error, veth) from error
            place_service_addresses(ends.there, prepared.inner_index, veth)
            self._announce(ends, namespace, veth, outdated)
            await_delivery(here, there, veth)
        return True

    def plug_outside(self, veth: Veth, *, make: bool) -> None:
        """See :meth:`sandnet.kernel.base.Links.plug_outside`."""
        self._history.doubt(veth)
        plug_outside(veth, make=make, reap=self.reap)
        self._history.record(veth)

    def plug_tap(self, veth: Veth) -> None:
        """See :meth:`sandnet.kernel.base.Links.plug_tap`."""
        self._history.doubt(veth)
        plug_tap(veth, veth.tap or TapOptions(), self.reap)
        self._history.record(veth)

    def _announce(self, ends: Ends, path: str, veth: Veth, outdated: Sequence[Address]) -> None:
        """Announce the shared addresses, and those own ones that neighbours may remember with another MAC.

        Args:
            ends: the namespaces.
            path: where the sandbox's is pinned.
            veth: the link.
            outdated: those own addresses. The kernel repeats one of them by itself (``announces_itself``).
        """
        mac, shared = mac_bytes(veth.mac), shared_addresses(veth) if veth.holder else []
        for address in shared:
            keep_neighbour(ends.here, ends.bridge, address, mac)
        own = outdated[1:] if announces_itself(veth, outdated) else outdated
        repeated = (*shared, *own)
        now = bool(shared) or any(address in own for address in veth.additional_addresses)
        if now:  # neighbours may know an earlier holder, which the kernel does not correct
            announce(ends.namespace, veth.interface, mac, repeated)
        if repeated:
            claim = Claim(path, os.fstat(ends.namespace).st_ino, veth.interface, veth.mac, repeated)
            self._announcer.schedule(claim, DELAYS[1:] if now else DELAYS)
        self._history.record(veth)

    def remove_service_addresses(self, namespace: str, addresses: Iterable[Interface]) -> None:
        """Remove service addresses from ``lo`` in the namespace; an absent namespace or address is success."""
        with map_errors(f"withdraw addresses from {namespace}"):
            try:
                with opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
                    for address in addresses:
                        remove_address(there, LOOPBACK, ip_interface(address.ip))
            except (FileNotFoundError, NotANetworkNamespaceError):
                return

    def retire(self, host_links: Iterable[str]) -> None:
        """Silence links at once (down, in the link group that ``reap`` deletes). Absent ones are success."""
        with map_errors("retire links"), Netlink() as here:
            silent = u32(IFLA_GROUP, RETIRED) + attribute(IFLA_IFALIAS, b"")
            names = with_shapers(host_links)
            change_links(here, [link_header(up=False) + string(IFLA_IFNAME, name) + silent for name in names])

    def forget_neighbours(self, bridge: str, addresses: Sequence[Address]) -> None:
        """See :meth:`sandnet.kernel.base.Links.forget_neighbours`."""
        with map_errors(f"forget the neighbours behind {bridge}"), Netlink() as here:
            if addresses and (index := here.index(bridge)):
                here.batch([forgetting(index, address) for address in addresses])

    def change_neighbours(
        self, namespace: str, interface: str, added: Mapping[Address, str], removed: Collection[Address]
    ) -> None:
        """See :meth:`sandnet.kernel.base.Links.change_neighbours`."""
        what = f"change the neighbours of {interface} in {namespace}"
        with map_errors(what), opened_namespace(namespace) as descriptor, Netlink.inside(descriptor) as there:
            change_kept(there, interface, added, removed)

    def reap(self) -> None:
        """Delete all retired links in one request."""
        with map_errors("delete retired links"), Netlink() as here:
            delete_group(here, RETIRED)

    def solicit(self, names: Iterable[str]) -> None:
        """See :meth:`sandnet.kernel.base.Links.solicit`."""
        solicit_routers(names)

    @contextmanager
    def _ends(self, namespace: str, veth: Veth) -> Iterator[Ends]:
        what = f"plug {veth.interface} of {namespace} into bridge {veth.master}"
        with map_errors(what), ExitStack() as stack:
            try:
                descriptor = stack.enter_context(opened_namespace(namespace))
            except NotANetworkNamespaceError as error:
                raise not_found("namespace", namespace) from error
            here = stack.enter_context(Netlink())
            bridge = here.index(veth.master)
            if not bridge:
                raise not_found("bridge", veth.master)
            there = stack.enter_context(Netlink.inside(descriptor))
            yield Ends(here, there, descriptor, bridge)

    def _ensure_pair(self, ends: Ends, veth: Veth) -> bool:
        """Return whether the pair was made; ``False``: it exists. A retired or broken pair of that name is deleted."""
        try:
            make_pair(ends, veth)
        except NetlinkError as error:
            if error.errno not in (errno.EEXIST, errno.EXFULL):
                raise
        else:
            return True
        rename_back(ends.here, ends.there, namespace_number(ends.here, ends.namespace), veth, PORTS)
        if is_pair(ends.here, ends.there, ends.namespace, veth):
            return False
        self.retire([veth.host_link])
        self.reap()
        try:
            make_pair(ends, veth)
        except NetlinkError as error:
            raise refusal(error, veth) from error
        return True


def _bridge(here: Netlink, name: str) -> Link:
    link = get_link(here, name)
    if link is None:
        raise not_found("bridge", name)
    if link.kind != "bridge":
        kind = link.kind or "physical"
        raise Error(Kind.CONFLICT, f"link {name} is not a bridge but a {kind} device", code="not_a_bridge")
    return link


def _ensure_address_inside(ends: Ends, inner: int, interface: str, address: Interface) -> None:
    """Do as :func:`_ensure_address`, and switch IPv6 on where it is off for the interface.

    Another program, or the default of new namespaces, may have switched it off.
    """
    try:
        _ensure_address(ends.there, inner, address, made=False)
    except NetlinkError as error:
        if error.errno != errno.EACCES or address.version != 6:
            raise
        with in_namespace(ends.namespace):
            set_where_different(ProcSysctl(), f"net/ipv6/conf/{interface}/disable_ipv6", "0")
        _ensure_address(ends.there, inner, address, made=False)


def _ensure_address(netlink: Netlink, index: int, address: Interface, *, made: bool) -> None:
    """Give a link an address; where it had the address already, add its connected route if that is missing."""
    if not add_address(netlink, index, address) and not made:
        add_connected(netlink, index, address)


def _update_pair(ends: Ends, veth: Veth) -> None:
    """Give an existing pair its desired bridge, MTU and MAC."""
    host = link_header() + string(IFLA_IFNAME, veth.host_link)
    ends.here.call(RTM_SETLINK, host + u32(IFLA_MASTER, ends.bridge) + mac_and_mtu(mtu=veth.mtu))
    inner = link_header() + string(IFLA_IFNAME, veth.interface)
    ends.there.call(RTM_SETLINK, inner + mac_and_mtu(veth.mac, veth.mtu))
