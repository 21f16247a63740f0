"""The bridges and veth pairs of the in-memory kernel."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_interface
from typing import Final

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.fake.common import LOOPBACK, FakeNamespace, FaultInjector, InnerEnd, recorded
from sandnet.kernel.types import PREPARED, RETIRED, Bridge, DefaultRoute, Link, Port, PreparedSandbox, Veth
from sandnet.model.address import Address, Interface
from sandnet.model.link_names import BRIDGE_LINK_LOCAL, link_mac, with_shapers
from sandnet.model.tap import TAP_KIND

MAX_PORTS: Final = 1023


class FakeLinks:
    """See :class:`sandnet.kernel.base.Links`."""

    area = "links"

    def __init__(self, faults: FaultInjector, spaces: dict[int, FakeNamespace], pins: dict[str, int]) -> None:
        self.faults = faults
        self.present: dict[str, Link] = {"lo": LOOPBACK}
        self.held: dict[str, list[Interface]] = {}
        self.options: dict[str, Veth] = {}
        """By host link: the pair as it was last requested."""
        self.retired: set[str] = set()
        self._spaces = spaces
        self._pins = pins
        self._peers: dict[str, tuple[int, str]] = {}
        self._indexes = itertools.count(2)

    def add(self, name: str, kind: str = "", *addresses: Interface) -> None:
        """Add a link that another program made."""
        self.present[name] = Link(name, next(self._indexes), kind, 0, True, 1500, "02:00:00:00:00:01", 0)
        self.held[name] = list(addresses)

    def add_prepared(self, name: str, inode: int, interface: str) -> int:
        """Add the host end of a prepared sandbox and return its index."""
        index = next(self._indexes)
        self.present[name] = Link(name, index, "veth", 0, False, 1500, "02:00:00:00:00:01", PREPARED)
        self.held[name] = []
        self._peers[name] = (inode, interface)
        return index

    @recorded
    def list(self) -> Sequence[Link]:
        """List all links."""
        return [*self.present.values()]

    @recorded
    def find(self, name: str) -> Link | None:
        """Return the link of that name, or ``None``."""
        return self.present.get(name)

    @recorded
    def ensure_bridge(self, bridge: Bridge) -> None:
        """Make it if absent; add missing addresses."""
        if bridge.name not in self.present:
            self.add(bridge.name, "bridge")
        link = self._bridge(bridge.name)
        self.present[bridge.name] = link._replace(
            up=True, mtu=bridge.mtu or link.mtu, mac=link_mac(bridge.name), alias=bridge.alias or link.alias
        )
        has_ipv6 = any(address.version == 6 for address in bridge.addresses)
        self._add_addresses(bridge._replace(addresses=(*bridge.addresses, BRIDGE_LINK_LOCAL)) if has_ipv6 else bridge)

    @recorded
    def adopt_bridge(self, bridge: Bridge) -> None:
        """Set it up; add missing addresses."""
        self.present[bridge.name] = self._bridge(bridge.name)._replace(up=True)
        self._add_addresses(bridge)

    @recorded
    def remove_addresses(self, name: str, addresses: Iterable[Interface]) -> None:
        """Remove the addresses; absent ones are success."""
        unwanted = set(addresses)
        self.held[name] = [address for address in self.held.get(name, []) if address not in unwanted]

    @recorded
    def addresses(self, name: str) -> Sequence[Interface]:
        """List the addresses on the link."""
        return [*self.held.get(name, [])]

    @recorded
    def delete(self, names: Iterable[str]) -> None:
        """Delete the links; absent ones are success."""
        existing = [name for name in with_shapers(names) if name in self.present]
        for name in existing:
            if not self.present[name].kind:
                raise Error(Kind.CONFLICT, f"link {name} is a device that cannot be deleted")
        for name in existing:
            self.drop(name)

    @recorded
    def plug(self, namespace: str, veth: Veth, *, is_new: bool = False) -> None:
        """Ensure the pair."""
        if namespace not in self._pins:
            raise not_found("namespace", namespace)
        bridge = self._bridge(veth.master)
        host = self.present.get(veth.host_link)
        if host and host.kind != "veth":
            raise Error(Kind.CONFLICT, f"link {veth.host_link} is there and is no veth")
        ends = (self._pins[namespace], veth.interface)
        if host is None or self._peers[veth.host_link] != ends or veth.host_link in self.retired:
            self._make_pair(bridge, ends, veth)
        self._update_pair(bridge, ends, veth)

    @recorded
    def plug_prepared(
        self, namespace: str, prepared: PreparedSandbox, veth: Veth, routes: Sequence[DefaultRoute]
    ) -> bool:
        """Plug the prepared pair, and set the default routes."""
        if prepared.host_link not in self.present:
            return False
        bridge, ends = self._bridge(veth.master), (self._pins[namespace], veth.interface)
        if self._count_ports(bridge) >= MAX_PORTS:
            self._reap()
        if self._count_ports(bridge) >= MAX_PORTS:
            raise _full(veth)
        self.present[veth.host_link] = self.present[veth.host_link]._replace(group=0)
        self._update_pair(bridge, ends, veth)
        self._spaces[ends[0]].default_routes = {route.gateway.version: route for route in routes}
        return True

    @recorded
    def plug_outside(self, veth: Veth, *, make: bool) -> None:
        """Ensure the host end; the other end is not simulated."""
        bridge = self._bridge(veth.master)
        if veth.host_link not in self.present:
            if not make:
                raise not_found("link", veth.host_link)
            self.add(veth.host_link, "veth")
        host = self.present[veth.host_link]
        self.present[veth.host_link] = host._replace(master=bridge.ifindex, up=True, alias=veth.alias or host.alias)
        self.options[veth.host_link] = veth

    @recorded
    def plug_tap(self, veth: Veth) -> None:
        """Ensure the tap."""
        bridge, host = self._bridge(veth.master), self.present.get(veth.host_link)
        if host and veth.host_link in self.retired:
            self._reap()
            host = None
        if host and host.kind != TAP_KIND:
            raise Error(Kind.CONFLICT, f"link {veth.host_link} is there and is no tap")
        if host is None:
            if self._count_ports(bridge) >= MAX_PORTS:
                self._reap()
            if self._count_ports(bridge) >= MAX_PORTS:
                raise _full(veth)
            self.add(veth.host_link, TAP_KIND)
        host = self.present[veth.host_link]
        self.present[veth.host_link] = host._replace(
            master=bridge.ifindex,
            up=True,
            mtu=veth.mtu or host.mtu,
            mac=link_mac(veth.host_link),
            alias=veth.alias or host.alias,
        )
        self.options[veth.host_link] = veth

    @recorded
    def remove_service_addresses(self, namespace: str, addresses: Iterable[Interface]) -> None:
        """Remove the addresses from ``lo``; absent ones are success."""
        if namespace in self._pins:
            space, unwanted = self._spaces[self._pins[namespace]], {ip_interface(address.ip) for address in addresses}
            space.loopback = [address for address in space.loopback if address not in unwanted]

    @recorded
    def retire(self, host_links: Iterable[str]) -> None:
        """Set the links down and mark them as retired."""
        for name in with_shapers(host_links):
            if name in self.present:
                self.present[name] = self.present[name]._replace(up=False, alias="")
                self.retired.add(name)

    @recorded
    def forget_neighbours(self, bridge: str, addresses: Sequence[Address]) -> None:
        """Do nothing: there are no neighbours."""

    @recorded
    def change_neighbours(
        self, namespace: str, interface: str, added: Mapping[Address, str], removed: Collection[Address]
    ) -> None:
        """Remember the entries of the interface."""
        if namespace not in self._pins:
            raise not_found("namespace", namespace)
        if inner := self._spaces[self._pins[namespace]].links.get(interface):
            kept = {each: mac for each, mac in inner.neighbours.items() if each not in removed}
            inner.neighbours = {**kept, **added}

    @recorded
    def solicit(self, names: Iterable[str]) -> None:
        """Do nothing: there are no routers."""

    @recorded
    def reap(self) -> None:
        """Delete the retired links."""
        self._reap()

    def drop(self, name: str) -> None:
        """Delete the link, and the other end of a pair with it."""
        deleted = self.present.pop(name)
        self.held.pop(name, None)
        self.options.pop(name, None)
        self.retired.discard(name)
        if name in self._peers:
            inode, interface = self._peers.pop(name)
            self._spaces[inode].links.pop(interface, None)
        for port, link in self.present.items():
            if link.master == deleted.ifindex:
                self.present[port] = link._replace(master=0)

    def drop_peers(self, inode: int) -> None:
        """Delete the pairs that have an end in a deleted namespace."""
        for name in [name for name, (space, _) in self._peers.items() if space == inode]:
            self.drop(name)

    def port(self, name: str) -> Port:
        """Return a link of the host; the two ends of a pair have one number, each in its own namespace."""
        link, requested = self.present[name], self.options.get(name)
        group = RETIRED if name in self.retired else link.group
        ends = self._peers.get(name)
        return Port(
            link._replace(group=group),
            link.ifindex if ends else 0,
            ends[0] if ends else -1,
            isolated=requested is not None and requested.isolated,
            hairpin=requested is not None and requested.hairpin,
        )

    def inner_port(self, inode: int, interface: str) -> Port:
        """Return the end of a pair that is in a namespace."""
        inner = self._spaces[inode].links[interface]
        index = next(
            (self.present[name].ifindex for name, ends in self._peers.items() if ends == (inode, interface)), 0
        )
        link = Link(interface, index, "veth", 0, True, inner.mtu, inner.mac, 0)
        return Port(link, index, 0, isolated=False, hairpin=False)

    def _reap(self) -> None:
        for name in [*self.retired]:
            self.drop(name)

    def _count_ports(self, bridge: Link) -> int:
        return sum(link.master == bridge.ifindex for link in self.present.values())

    def _bridge(self, name: str) -> Link:
        link = self.present.get(name)
        if link is None:
            raise not_found("bridge", name)
        if link.kind != "bridge":
            raise Error(Kind.CONFLICT, f"link {name} is not a bridge", code="not_a_bridge")
        return link

    def _add_addresses(self, bridge: Bridge) -> None:
        held = self.held.setdefault(bridge.name, [])
        held.extend(address for address in bridge.addresses if address not in held)

    def _make_pair(self, bridge: Link, ends: tuple[int, str], veth: Veth) -> None:
        space = self._spaces[ends[0]]
        full = self._count_ports(bridge) >= MAX_PORTS
        if full or ends[1] in space.links or veth.host_link in self.present:
            if veth.host_link in self.present:
                self.retired.add(veth.host_link)
            self._reap()
        if self._count_ports(bridge) >= MAX_PORTS:
            raise _full(veth)
        if ends[1] in space.links:
            raise Error(Kind.CONFLICT, f"the name {ends[1]} is taken in the namespace", code="interface_taken")
        self.add(veth.host_link, "veth")
        self._peers[veth.host_link] = ends
        space.links[ends[1]] = InnerEnd(veth.mac, veth.mtu or 1500, [])

    def _update_pair(self, bridge: Link, ends: tuple[int, str], veth: Veth) -> None:
        host = self.present[veth.host_link]
        mtu = veth.mtu or host.mtu
        self.present[veth.host_link] = host._replace(
            master=bridge.ifindex, up=True, mtu=mtu, alias=veth.alias or host.alias
        )
        self.options[veth.host_link] = veth
        inner = self._spaces[ends[0]].links[ends[1]]
        inner.mac, inner.mtu = veth.mac, mtu
        desired = (veth.address, veth.address_ipv6, *map(ip_interface, veth.additional_addresses))
        inner.addresses.extend(address for address in desired if address and address not in inner.addresses)
        loopback = self._spaces[ends[0]].loopback
        place, other = (inner.addresses, loopback) if veth.holder else (loopback, inner.addresses)
        shared: list[Interface] = [ip_interface(service.ip) for service in (veth.service, veth.service_ipv6) if service]
        for address in shared:
            if address not in place:
                place.append(address)
            if address in other:
                other.remove(address)


def _full(veth: Veth) -> Error:
    message = f"bridge {veth.master} is full: the kernel allows {MAX_PORTS} ports"
    return Error(Kind.EXHAUSTED, message, code="network_full")
