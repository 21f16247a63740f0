"""Links of other programs that move into namespaces of the in-memory kernel."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import NamedTuple

from sandnet.errors import Error, Kind, not_found
from sandnet.kernel.fake.common import FakeNamespace, FaultInjector, InnerEnd, recorded
from sandnet.kernel.fake.links import FakeLinks
from sandnet.kernel.types import Link, Macvlan, MovedLink
from sandnet.model.address import Interface
from sandnet.model.link_names import MACVLAN_KIND, OUR_LINKS


class _Placed(NamedTuple):
    link: Link
    inode: int
    interface: str


class FakeSuppliedLinks:
    """See :class:`sandnet.kernel.namespace_protocols.SuppliedLinks`. Routes are not simulated."""

    area = "supplied_links"

    def __init__(
        self, faults: FaultInjector, links: FakeLinks, spaces: dict[int, FakeNamespace], pins: dict[str, int]
    ) -> None:
        self.faults = faults
        self._links = links
        self._spaces = spaces
        self._pins = pins
        self._placed: dict[str, _Placed] = {}

    @recorded
    def stacking_problem(self, kind: str) -> str:
        """Return a problem for all kinds but macvlan."""
        return "" if kind == MACVLAN_KIND else f"this kernel has no {kind}"

    @recorded
    def make_macvlan(self, link: Macvlan) -> None:
        """Make it, down."""
        if link.parent not in self._links.present:
            raise not_found("link", link.parent)
        found = self._links.present.get(link.name)
        if found and found.kind != MACVLAN_KIND:
            raise Error(Kind.CONFLICT, f"link {link.name} is there and is no {MACVLAN_KIND}")
        if found is None:
            self._links.add(link.name, MACVLAN_KIND)
            self._links.present[link.name] = self._links.present[link.name]._replace(up=False, mac=link.mac)

    @recorded
    def place(self, namespace: str, link: MovedLink) -> None:
        """Ensure that the link is inside."""
        if namespace not in self._pins:
            raise not_found("namespace", namespace)
        inode = self._pins[namespace]
        links = self._spaces[inode].links
        if not self._find(namespace, link.alias):
            if link.interface in links:
                message = f"the name {link.interface} is taken in the namespace"
                raise Error(Kind.CONFLICT, message, code="interface_taken")
            found = self._unused(link.source)
            self._links.drop(link.source)
            self._placed[link.alias] = _Placed(found, inode, link.interface)
            links[link.interface] = InnerEnd(link.mac or found.mac, found.mtu, [])
        inner = links[link.interface]
        desired = (*link.addresses, *map(ip_interface, link.additional_addresses))
        inner.addresses.extend(each for each in desired if each not in inner.addresses)

    @recorded
    def remove_address(self, namespace: str, alias: str, address: Interface) -> None:
        """Remove the address."""
        if placed := self._find(namespace, alias):
            inner = self._spaces[placed.inode].links[placed.interface]
            inner.addresses[:] = [each for each in inner.addresses if each != address]

    @recorded
    def withdraw(self, namespace: str, source: str, alias: str) -> None:
        """Move the link back."""
        if placed := self._find(namespace, alias):
            del self._placed[alias], self._spaces[placed.inode].links[placed.interface]
            if source not in self._links.present:
                self._links.present[source] = placed.link._replace(up=False, alias="")

    @recorded
    def is_placed(self, namespace: str, alias: str) -> bool:
        """Return whether the link is inside."""
        return self._find(namespace, alias) is not None

    def _find(self, namespace: str, alias: str) -> _Placed | None:
        placed = self._placed.get(alias)
        inside = placed and placed.inode == self._pins.get(namespace) and placed.inode in self._spaces
        return placed if inside and placed and placed.interface in self._spaces[placed.inode].links else None

    def _unused(self, name: str) -> Link:
        link = self._links.present.get(name)
        if link is None:
            raise Error(Kind.CONFLICT, f"there is no link {name} on the host to be moved", code="link_missing")
        own = OUR_LINKS.get(link.kind)
        used = link.ifindex == 1 or link.master or link.kind == "bridge" or self._links.held.get(name)
        if used or (own and own.fullmatch(name) and link.kind != MACVLAN_KIND):
            raise Error(Kind.CONFLICT, f"link {name} is not moved: the host uses it", code="link_in_use")
        return link
