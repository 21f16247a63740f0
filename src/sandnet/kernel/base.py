"""What the program needs from Linux, as twelve small protocols.

Everything here is synchronous and idempotent ("ensure"): the same call again converges. It is called on worker threads
only (see ``workers``). Failures are ``sandnet.errors.Error`` whose message names the object; an errno never leaves this
room. ``linux`` is the real implementation and ``fake`` an in-memory one that passes the same contract suite.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from sandnet.kernel.dhcp.base import DhcpClients
from sandnet.kernel.namespace_protocols import InterfaceSettings, Namespaces, SandboxPool, SuppliedLinks
from sandnet.kernel.observation import Processes, StateReader, Watcher
from sandnet.kernel.types import (
    NO_ELEMENTS,
    Bridge,
    BridgeRoute,
    DefaultRoute,
    Elements,
    Link,
    Listing,
    PortLimits,
    PreparedSandbox,
    RouteSource,
    TableStructure,
    Veth,
)
from sandnet.kernel.vxlan.base import VxlanPorts
from sandnet.kernel.wireguard.base import Tunnels
from sandnet.model.address import Address, Interface, Prefix

RULES_MISSING: Final = "rules_gone"
"""Error code: a script builds upon a table, set or element that another program removed."""


class HeldPort(Protocol):
    """A host port that is ours until closed: another process that binds it gets EADDRINUSE."""

    @property
    def port(self) -> int:
        """The host port, 1 to 65535."""
        ...

    def close(self) -> None:
        """Release the port; a second call does nothing."""
        ...


class Links(Protocol):
    """Bridges and veth pairs of the host."""

    def list(self) -> Sequence[Link]:
        """List all links of the host's namespace."""
        ...

    def find(self, name: str) -> Link | None:
        """Return the link of that name, or ``None``."""
        ...

    def ensure_bridge(self, bridge: Bridge) -> None:
        """Make the bridge if it is absent; give it its MTU and addresses; set it up.

        Its other addresses stay. IPv6 addresses are usable at once: there is no duplicate address detection, as no one
        else can be on a bridge that we make.

        Raises:
            Error: ``CONFLICT`` when a link of that name is not a bridge.
        """
        ...

    def adopt_bridge(self, bridge: Bridge) -> None:
        """Give an existing bridge the addresses it lacks and set it up.

        Raises:
            Error: ``NOT_FOUND`` when there is no link of that name, ``CONFLICT`` when it is no bridge.
        """
        ...

    def remove_addresses(self, name: str, addresses: Iterable[Interface]) -> None:
        """Remove the addresses from the link; an absent link or address is success."""
        ...

    def addresses(self, name: str) -> Sequence[Interface]:
        """List the addresses on a link; empty when it is absent."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete links in bulk (one grace period for all); absent ones are success."""
        ...

    def plug(self, namespace: str, veth: Veth, *, is_new: bool = False) -> None:
        """Ensure the pair, both ends up.

        The host end is on the bridge. The other end is in the namespace pinned at ``namespace``, with its name, MAC,
        MTU and addresses. The holder of a service address announces it to the neighbours at each call. Addresses of a
        new interface are announced if neighbours may remember another MAC.

        Args:
            namespace: where it is pinned.
            veth: the pair.
            is_new: whether the interface is new, even if the pair exists, as a prepared one does.

        Raises:
            Error: ``NOT_FOUND`` the namespace or the bridge does not exist; ``EXHAUSTED`` with code ``network_full``
                the bridge is at the kernel's 1,023 ports (below BR_MAX_PORTS); ``CONFLICT`` the interface's name is
                taken in the namespace.
        """
        ...

    def plug_prepared(
        self, namespace: str, prepared: PreparedSandbox, veth: Veth, routes: Sequence[DefaultRoute]
    ) -> bool:
        """Do as :meth:`plug` with the link of a prepared sandbox, pinned at ``namespace``, and set its default routes.

        Returns:
            ``False``: the kernel refused a part, as when another program deleted the prepared link. :meth:`plug` and
            :meth:`Namespaces.default_routes` make what is missing, or raise the reason.

        Raises:
            Error: ``NOT_FOUND`` the bridge does not exist; ``EXHAUSTED`` as :meth:`plug`.
        """
        ...

    def plug_outside(self, veth: Veth, *, make: bool) -> None:
        """Ensure a pair whose host end is on the bridge and up; the other end is left to a container engine.

        A new pair has both ends on the host, the other one down, with its MAC and MTU. The engine moves it into a
        namespace, renames it, and sets its addresses. An existing pair is changed at its host end only.

        Args:
            veth: the pair.
            make: whether to create an absent pair.

        Raises:
            Error: ``NOT_FOUND`` the bridge does not exist, or the pair, if it is not to be created; ``EXHAUSTED`` as
                :meth:`plug`; ``CONFLICT`` a link of that name is no veth.
        """
        ...

    def plug_tap(self, veth: Veth) -> None:
        """Ensure a tap (``veth.tap``) that is on the bridge and up. It stays when the daemon ends.

        A tap that exists keeps its owner: an emulator may have it open.

        Raises:
            Error: ``NOT_FOUND`` the bridge does not exist; ``UNAVAILABLE`` with code ``no_taps`` the kernel makes none;
                ``EXHAUSTED`` as :meth:`plug`; ``CONFLICT`` a link of that name is no tap.
        """
        ...

    def remove_service_addresses(self, namespace: str, addresses: Iterable[Interface]) -> None:
        """Remove service addresses from ``lo`` in the namespace pinned at ``namespace``.

        The namespace outlives its interface. An absent namespace or address is success.
        """
        ...

    def retire(self, host_links: Iterable[str]) -> None:
        """Silence links at once: down, without an alias, in the link group that ``reap`` deletes.

        Absent ones are success.
        """
        ...

    def forget_neighbours(self, bridge: str, addresses: Sequence[Address]) -> None:
        """Delete the host's neighbour entries for addresses that it reaches through a bridge.

        They are kept until this call, however full the kernel's table is. An absent bridge or entry is success.

        Args:
            bridge: its name.
            addresses: those that no port of the bridge has any more.
        """
        ...

    def change_neighbours(
        self, namespace: str, interface: str, added: Mapping[Address, str], removed: Collection[Address]
    ) -> None:
        """Give an interface inside neighbour entries that stay however full the kernel's table is, and remove others.

        Entries that a user made permanent are left alone. An absent interface or entry is success.

        Args:
            namespace: where the namespace is pinned.
            interface: its name inside.
            added: the neighbours' MACs.
            removed: further neighbours.

        Raises:
            Error: ``NOT_FOUND`` there is no namespace; another where its kernel messages are too many to be read.
        """
        ...

    def reap(self) -> None:
        """Delete all retired links in one request."""
        ...

    def solicit(self, names: Iterable[str]) -> None:
        """Ask the routers on these links to advertise themselves.

        A link that is down or has no IPv6 is skipped.
        """
        ...


class TrafficLimits(Protocol):
    """Limits of the traffic of ports, in each direction. They end with the port."""

    def ensure(self, port: str, limits: PortLimits) -> None:
        """Give a port exactly these limits.

        Raises:
            Error: ``NOT_FOUND`` there is no such link; ``UNAVAILABLE`` the kernel has no such limits.
        """
        ...

    def list(self) -> Mapping[str, PortLimits]:
        """Return the limits of all ports that have any."""
        ...


class Firewall(Protocol):
    """nftables: written to, and read only to find out whether another program changed it."""

    def apply(self, script: str, elements: Elements = NO_ELEMENTS) -> None:
        """Run an nft script and add elements, as one transaction: all of it or nothing.

        Args:
            script: it declares the sets of the elements.
            elements: any number of them.

        Raises:
            Error: ``UNAVAILABLE``, with code ``RULES_MISSING`` when a table, set or element that the script names does
                not exist.
        """
        ...

    def change(self, removed: Elements, added: Elements, *, absent: bool = False) -> None:
        """Remove elements and then add others, as one transaction, in a tenth of the time of :meth:`apply`.

        Args:
            removed: elements that exist.
            added: elements that may exist already, with the same value.
            absent: the elements to remove may also be absent.

        Raises:
            Error: as :meth:`apply`.
        """
        ...

    def listing(self, table: str) -> Listing | None:
        """Return a table (``inet sandnet``) as it is in the kernel; ``None``: there is none."""
        ...

    def structure(self, table: str) -> TableStructure | None:
        """Return :attr:`Listing.structure` of a table, without reading its elements."""
        ...

    def members(self, table: str, name: str) -> frozenset[bytes]:
        """Return the keys of one set, or none if there is no such set.

        Sets that rules write to can be read as well.
        """
        ...

    def foreign_generation(self) -> int:
        """Return 0 when all transactions since the last :meth:`acknowledge` were ours, else the present generation."""
        ...

    def acknowledge(self, generation: int) -> None:
        """Record that the transactions of other programs up to this generation have been checked."""
        ...

    def forget_flows(
        self,
        *,
        addresses: Iterable[Address] = (),
        bound: Iterable[tuple[int, int]] = (),
        live: Iterable[Address] = (),
    ) -> None:
        """Delete conntrack entries that a changed port mapping has made wrong.

        Args:
            addresses: delete every translated flow to one of these (a mapping was removed).
            bound: delete UDP and SCTP flows to these (protocol, host port) that are older than the mapping.
            live: the mapping's targets; flows to ``bound`` that one of these answers are right and stay.
        """
        ...


class Sysctl(Protocol):
    """Kernel parameters by their path below ``/proc/sys`` (``net/ipv4/ip_forward``; link names may hold dots)."""

    def get(self, name: str) -> str | None:
        """Return the value, or ``None`` where the kernel has no such parameter."""
        ...

    def is_writable(self, name: str) -> bool:
        """Return whether a parameter can be written: ``/proc/sys``, or a part of it, may be mounted read-only."""
        ...

    def set(self, name: str, value: str) -> None:
        """Set the parameter.

        Raises:
            Error: ``UNAVAILABLE`` when the parameter is missing or read-only.
        """
        ...


class Host(Protocol):
    """Facts about the host, and its ports."""

    def occupied(self, ignore: Collection[str] = ()) -> Sequence[Prefix]:
        """List the prefixes that a new subnet must not overlap.

        They are routes (except default routes), addresses and nameservers. Those of the links named in ``ignore`` are
        left out. The cost does not grow with the number of routes: the whole table is read once, then changes are
        followed.
        """
        ...

    def local_port_range(self) -> tuple[int, int]:
        """Return ``net.ipv4.ip_local_port_range``, both ends included."""
        ...

    def reserved_ports(self) -> Collection[int]:
        """Return ``net.ipv4.ip_local_reserved_ports``: ports that are assigned only on request by number."""
        ...

    def is_preferred(self, needed: Sequence[BridgeRoute], allowed: Sequence[BridgeRoute]) -> bool:
        """Return whether our routes to bridges take precedence over the routing rules of other programs.

        Packets to the bridges of ``needed`` must reach them, and only routes in ``needed`` or ``allowed`` may be
        preferred. A rule of ours that is no longer needed may be there.
        """
        ...

    def prefer(self, routes: Sequence[BridgeRoute]) -> None:
        """Make exactly these routes take precedence over the routing rules of other programs.

        Where other programs have no rules, we have none. Without routes, all our rules and routes are removed.
        """
        ...

    def is_local_prefix(self, prefix: Prefix) -> bool:
        """Return whether the host accepts packets to each address of a prefix, by a route of ours."""
        ...

    def add_local_prefix(self, prefix: Prefix) -> None:
        """Let the host accept packets to each address of a prefix, and programs bind them (``IPV6_FREEBIND``)."""
        ...

    def remove_local_prefix(self, prefix: Prefix) -> None:
        """Undo :meth:`add_local_prefix`; an absent route is success."""
        ...

    def route_sources(self) -> Sequence[RouteSource]:
        """List destinations whose route prefers another source (``ip route ... src``) than masquerading would choose.

        No two of one link overlap. Cheap where no route has changed. Where many routes change, the result is late by a
        fraction of a second.
        """
        ...

    def hold(self, proto: int, address: Address, port: int) -> HeldPort:
        """Bind a host port (0: the kernel's choice) so that no other process can.

        Raises:
            Error: ``CONFLICT`` it is taken (code ``port_taken``) or the address is not this host's (code
                ``address_not_local``).
        """
        ...

    def missing_features(self) -> dict[str, str]:
        """Return the kernel features that are absent, each with the reason in words.

        Keys: ``bridge``, ``veth``, ``vxlan``, ``wireguard``, ``nftables``, ``namespaces``, ``ipv6``, ``sctp``.
        """
        ...


class Kernel(Protocol):
    """All fourteen protocols together, as the composition root passes them on."""

    @property
    def links(self) -> Links:
        """See :class:`Links`."""
        ...

    @property
    def limits(self) -> TrafficLimits:
        """See :class:`TrafficLimits`."""
        ...

    @property
    def interface_settings(self) -> InterfaceSettings:
        """See :class:`sandnet.kernel.namespace_protocols.InterfaceSettings`."""
        ...

    @property
    def supplied_links(self) -> SuppliedLinks:
        """See :class:`sandnet.kernel.namespace_protocols.SuppliedLinks`."""
        ...

    @property
    def dhcp_clients(self) -> DhcpClients:
        """See :class:`sandnet.kernel.dhcp.base.DhcpClients`."""
        ...

    @property
    def vxlan(self) -> VxlanPorts:
        """See :class:`sandnet.kernel.vxlan.base.VxlanPorts`."""
        ...

    @property
    def tunnels(self) -> Tunnels:
        """See :class:`sandnet.kernel.wireguard.base.Tunnels`."""
        ...

    @property
    def namespaces(self) -> Namespaces:
        """See :class:`Namespaces`."""
        ...

    @property
    def firewall(self) -> Firewall:
        """See :class:`Firewall`."""
        ...

    @property
    def sysctl(self) -> Sysctl:
        """See :class:`Sysctl`."""
        ...

    @property
    def host(self) -> Host:
        """See :class:`Host`."""
        ...

    @property
    def state_reader(self) -> StateReader:
        """See :class:`sandnet.kernel.observation.StateReader`."""
        ...

    @property
    def processes(self) -> Processes:
        """See :class:`Processes`."""
        ...

    @property
    def watcher(self) -> Watcher:
        """See :class:`sandnet.kernel.observation.Watcher`."""
        ...

    @property
    def pool(self) -> SandboxPool:
        """See :class:`SandboxPool`."""
        ...
